//! What a registry wants to see in `Authorization`.

use base64::Engine as _;
use http_auth::{ChallengeParser, ChallengeRef};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::client::{Client, bounded};
use super::error::Asked;
use crate::credentials::Credentials;
use crate::error::{Error, ErrorKind, Result};

/// The longest answer with a token.
const MOST: u64 = 256 << 10;

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// The answer to a challenge; `None` where these credentials cannot meet it.
pub(super) async fn answer(
    client: &Client,
    headers: &HeaderMap,
    asked: Asked<'_>,
) -> Result<Option<HeaderValue>> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter();
    let texts: Vec<&str> = texts.filter_map(|text| text.to_str().ok()).collect();
    let challenges: Vec<ChallengeRef<'_>> = texts
        .iter()
        .flat_map(|text| ChallengeParser::new(text).filter_map(std::result::Result::ok))
        .collect();
    let is = |scheme: &str| {
        challenges
            .iter()
            .find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme))
    };
    if let Some(bearer) = is("Bearer") {
        let header = format!("Bearer {}", token(client, bearer, asked).await?);
        return Ok(Some(sensitive(&header, asked)?));
    }
    match &client.credentials {
        Credentials::Password { .. } if is("Basic").is_some() => {
            Ok(Some(sensitive(&basic(&client.credentials), asked)?))
        }
        _ => Ok(None),
    }
}

fn basic(credentials: &Credentials) -> String {
    let Credentials::Password { user, password } = credentials else {
        return String::new();
    };
    let engine = base64::engine::general_purpose::STANDARD;
    let text = format!("{user}:{}", password.expose());
    format!("Basic {}", engine.encode(text))
}

/// A header that is not shown. One with a line break in it is none.
fn sensitive(text: &str, asked: Asked<'_>) -> Result<HeaderValue> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| asked.protocol("gave a token that is none"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Fetches a token from where the registry says.
async fn token(client: &Client, challenge: &ChallengeRef<'_>, asked: Asked<'_>) -> Result<String> {
    let value = |name: &str| {
        let found = challenge.params.iter();
        let mut found = found.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.to_unescaped())
    };
    let realm = value("realm").unwrap_or_default();
    let mut realm =
        Url::parse(&realm).map_err(|_| asked.protocol("names no address to get a token from"))?;
    let what = format!("token of {}", realm.host_str().unwrap_or_default());
    let asked = Asked {
        host: asked.host,
        what: &what,
    };
    // A password never goes out in the clear where the registry is spoken to by TLS.
    if realm.scheme() != "https" && !(client.scheme == "http" && realm.scheme() == "http") {
        return Err(asked.protocol("wants a token from an address without TLS"));
    }
    let scope = format!("repository:{}:pull", client.repository());
    let mut query = vec![("scope", scope)];
    if let Some(service) = value("service") {
        query.push(("service", service));
    }
    let request = match &client.credentials {
        Credentials::IdentityToken(token) => {
            query.push(("grant_type", "refresh_token".to_owned()));
            query.push(("client_id", "stacyvm".to_owned()));
            query.push(("refresh_token", token.expose().to_owned()));
            // A form is written as a query is.
            let mut form = realm.clone();
            form.set_query(None);
            form.query_pairs_mut().extend_pairs(&query);
            let body = form.query().unwrap_or_default().to_owned();
            let kind = "application/x-www-form-urlencoded";
            client
                .http
                .tokens
                .post(realm)
                .header(CONTENT_TYPE, kind)
                .body(body)
        }
        other => {
            realm.query_pairs_mut().extend_pairs(&query);
            let request = client.http.tokens.get(realm);
            match other {
                Credentials::Password { .. } => {
                    let header = sensitive(&basic(other), asked)?;
                    request.header(reqwest::header::AUTHORIZATION, header)
                }
                _ => request,
            }
        }
    };
    let answer = request.send().await.map_err(|e| asked.request(e))?;
    if !answer.status().is_success() {
        let known = !matches!(client.credentials, Credentials::Anonymous);
        let status = match answer.status() {
            StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN => StatusCode::UNAUTHORIZED,
            other => other,
        };
        return Err(asked.status(status, known));
    }
    let bytes = bounded(answer, MOST, "token bytes", asked).await?;
    // What serde says of a wrong value may hold the value.
    let answer: Answer =
        serde_json::from_slice(&bytes).map_err(|_| asked.protocol("gave a token that is none"))?;
    let token = answer.token.or(answer.access_token);
    token
        .filter(|token| !token.is_empty())
        .ok_or_else(|| Error::new(ErrorKind::Protocol, "the registry gave no token"))
}
