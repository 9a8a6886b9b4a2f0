//! The part of a shell that the mock reads: see `docs.md`.

use std::sync::Arc;

/// Where a redirection leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    File { path: Word, append: bool },
    Descriptor(u8),
}

/// A piece of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Variable(String),
}

/// A word before its variables are known.
pub(super) type Word = Vec<Piece>;

/// One command of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Simple {
        words: Vec<Word>,
        redirections: Vec<(u8, Target)>,
    },
    Group(Arc<Vec<Line>>),
}

/// How an item depends on the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joint {
    Always,
    And,
    Or,
}

/// Commands joined by `&&` and `||`, in the background or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) items: Vec<(Joint, Item)>,
    pub(super) background: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(Word),
    And,
    Or,
    Semicolon,
    Ampersand,
    Open,
    Close,
    /// Descriptor, whether appending; what follows is a word.
    Out(u8, bool),
    /// Descriptor onto descriptor.
    Onto(u8, u8),
    In,
}

/// Reads a line; the error is what a shell would print.
pub(super) fn parse(text: &str) -> Result<Vec<Line>, String> {
    let tokens = tokens(text)?;
    let mut at = 0;
    let lines = list(&tokens, &mut at)?;
    if at < tokens.len() {
        return Err("unexpected )".to_owned());
    }
    Ok(lines)
}

fn list(tokens: &[Token], at: &mut usize) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    let mut line = Line {
        items: Vec::new(),
        background: false,
    };
    let mut joint = Joint::Always;
    loop {
        let end = |line: &mut Line, lines: &mut Vec<Line>, background| {
            if !line.items.is_empty() {
                line.background = background;
                lines.push(line.clone());
                line.items.clear();
            }
        };
        match tokens.get(*at) {
            None | Some(Token::Close) => {
                if joint != Joint::Always {
                    return Err("a command is missing after && or ||".to_owned());
                }
                end(&mut line, &mut lines, false);
                return Ok(lines);
            }
            Some(Token::Semicolon | Token::Ampersand) => {
                if joint != Joint::Always {
                    return Err("a command is missing after && or ||".to_owned());
                }
                let background = tokens[*at] == Token::Ampersand;
                end(&mut line, &mut lines, background);
                *at += 1;
            }
            Some(Token::And | Token::Or) => {
                if line.items.is_empty() || joint != Joint::Always {
                    return Err("a command is missing before && or ||".to_owned());
                }
                joint = if tokens[*at] == Token::And {
                    Joint::And
                } else {
                    Joint::Or
                };
                *at += 1;
            }
            Some(_) => {
                if joint == Joint::Always && !line.items.is_empty() {
                    return Err("a separator is missing between two commands".to_owned());
                }
                line.items.push((joint, item(tokens, at)?));
                joint = Joint::Always;
            }
        }
    }
}

fn item(tokens: &[Token], at: &mut usize) -> Result<Item, String> {
    if tokens[*at] == Token::Open {
        *at += 1;
        let lines = list(tokens, at)?;
        if tokens.get(*at) != Some(&Token::Close) {
            return Err("a ) is missing".to_owned());
        }
        *at += 1;
        return Ok(Item::Group(Arc::new(lines)));
    }
    let (mut words, mut redirections) = (Vec::new(), Vec::new());
    loop {
        match tokens.get(*at) {
            Some(Token::Word(word)) => words.push(word.clone()),
            Some(Token::Onto(from, to)) => redirections.push((*from, Target::Descriptor(*to))),
            Some(Token::Out(from, append)) => {
                *at += 1;
                let Some(Token::Word(path)) = tokens.get(*at) else {
                    return Err("a file is missing after >".to_owned());
                };
                redirections.push((
                    *from,
                    Target::File {
                        path: path.clone(),
                        append: *append,
                    },
                ));
            }
            Some(Token::In) => {
                *at += 1;
                let Some(Token::Word(path)) = tokens.get(*at) else {
                    return Err("a file is missing after <".to_owned());
                };
                redirections.push((
                    0,
                    Target::File {
                        path: path.clone(),
                        append: false,
                    },
                ));
            }
            _ => break,
        }
        *at += 1;
    }
    Ok(Item::Simple {
        words,
        redirections,
    })
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(&c) = rest.peek() {
        match c {
            ' ' | '\t' => {
                rest.next();
            }
            '\n' | ';' => {
                rest.next();
                tokens.push(Token::Semicolon);
            }
            '&' | '|' => {
                rest.next();
                if rest.next_if_eq(&c).is_some() {
                    tokens.push(if c == '&' { Token::And } else { Token::Or });
                } else if c == '&' {
                    tokens.push(Token::Ampersand);
                } else {
                    return Err("the mock has no pipes".to_owned());
                }
            }
            '(' | ')' => {
                rest.next();
                tokens.push(if c == '(' { Token::Open } else { Token::Close });
            }
            '<' => {
                rest.next();
                tokens.push(Token::In);
            }
            '>' => {
                rest.next();
                tokens.push(redirection(1, &mut rest)?);
            }
            '#' => while rest.next_if(|c| *c != '\n').is_some() {},
            '`' => return Err("the mock has no command substitution".to_owned()),
            _ => {
                let word = word(&mut rest)?;
                let digit = match word.as_slice() {
                    [Piece::Text(text)] if text == "1" || text == "2" => text.parse().ok(),
                    _ => None,
                };
                match digit {
                    Some(from) if rest.next_if_eq(&'>').is_some() => {
                        tokens.push(redirection(from, &mut rest)?);
                    }
                    _ => tokens.push(Token::Word(word)),
                }
            }
        }
    }
    Ok(tokens)
}

type Rest<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn redirection(from: u8, rest: &mut Rest<'_>) -> Result<Token, String> {
    if rest.next_if_eq(&'>').is_some() {
        return Ok(Token::Out(from, true));
    }
    if rest.next_if_eq(&'&').is_some() {
        return match rest.next() {
            Some('1') => Ok(Token::Onto(from, 1)),
            Some('2') => Ok(Token::Onto(from, 2)),
            _ => Err("after >& comes 1 or 2".to_owned()),
        };
    }
    Ok(Token::Out(from, false))
}

fn word(rest: &mut Rest<'_>) -> Result<Word, String> {
    let mut word: Word = Vec::new();
    let mut text = String::new();
    let mut quoted = false;
    loop {
        match rest.peek() {
            Some('\'') if !quoted => {
                rest.next();
                loop {
                    match rest.next() {
                        Some('\'') => break,
                        Some(c) => text.push(c),
                        None => return Err("a ' is missing".to_owned()),
                    }
                }
                // An empty pair of quotes is a word too.
                word.push(Piece::Text(std::mem::take(&mut text)));
            }
            Some('"') => {
                rest.next();
                quoted = !quoted;
                word.push(Piece::Text(std::mem::take(&mut text)));
            }
            Some('\\') => {
                rest.next();
                match rest.next() {
                    Some(c) if quoted && !"\\\"$`".contains(c) => text.extend(['\\', c]),
                    Some(c) => text.push(c),
                    None => text.push('\\'),
                }
            }
            Some('$') => {
                rest.next();
                word.push(Piece::Text(std::mem::take(&mut text)));
                word.push(variable(rest)?);
            }
            Some('`') => return Err("the mock has no command substitution".to_owned()),
            Some(c) if quoted || !" \t\n;&|()<>".contains(*c) => {
                text.push(*c);
                rest.next();
            }
            None if quoted => return Err("a \" is missing".to_owned()),
            _ => break,
        }
    }
    if !text.is_empty() {
        word.push(Piece::Text(text));
    }
    let only_text = word.iter().all(|piece| matches!(piece, Piece::Text(_)));
    if only_text {
        let joined = word.iter().map(|piece| match piece {
            Piece::Text(text) | Piece::Variable(text) => text.as_str(),
        });
        return Ok(vec![Piece::Text(joined.collect())]);
    }
    Ok(word)
}

fn variable(rest: &mut Rest<'_>) -> Result<Piece, String> {
    if let Some(c) = rest.next_if(|c| "$?!".contains(*c)) {
        return Ok(Piece::Variable(c.to_string()));
    }
    if rest.peek() == Some(&'(') {
        return Err("the mock has no command substitution".to_owned());
    }
    let braced = rest.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    if braced && rest.next_if_eq(&'}').is_none() {
        return Err("the mock knows ${NAME} and no other form".to_owned());
    }
    if name.is_empty() {
        return Ok(Piece::Text("$".to_owned()));
    }
    Ok(Piece::Variable(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_mock_cannot_read_is_refused() {
        for line in [
            "a | b",
            "echo `x`",
            "echo $(x)",
            "a &&",
            "&& a",
            "(a",
            "a)",
            "a >",
            "echo 'x",
            "echo \"x",
            "(a) b",
            "${x:-y}",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn quotes_and_redirections_are_read() {
        let lines = parse("echo 'a  b' \"c $X\" 2>&1 >> /f & true").unwrap();
        assert!(lines[0].background && !lines[1].background);
        let Item::Simple {
            words,
            redirections,
        } = &lines[0].items[0].1
        else {
            panic!("a simple command");
        };
        assert_eq!(words[1], [Piece::Text("a  b".into())]);
        assert!(words[2].contains(&Piece::Variable("X".into())));
        assert_eq!(redirections[0], (2, Target::Descriptor(1)));
        assert!(matches!(
            redirections[1],
            (1, Target::File { append: true, .. })
        ));
    }
}
