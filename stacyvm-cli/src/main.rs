//! The `stacyvm` command: parse, call the library, print.

mod args;
mod commands;
mod exit;
mod output;
mod progress;
mod session;
mod signals;
mod spec;
mod terminal;

use std::process::ExitCode;

use clap::Parser;
use stacyvm::config::{Config, Overrides};
use stacyvm::engine::Engine;
use stacyvm::{Error, ErrorKind, Result};

use args::{Cli, Command, ConfigCommand, ConformanceCommand, HelperCommand};

fn main() -> ExitCode {
    signals::take_ends_of_children();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() && args::ask_for_json(std::env::args_os()) {
                output::error(&args::usage_error(&error), true);
                return exit::code(exit::FAILED);
            }
            let code = if error.use_stderr() { exit::FAILED } else { 0 };
            // Nobody is left to tell that our output is closed.
            let _ = error.print();
            return exit::code(code);
        }
    };
    let json = cli.json;
    match start(cli) {
        Ok(code) => exit::code(code),
        Err(error) => {
            output::error(&error, json);
            exit::code(exit::of_error(&error))
        }
    }
}

fn start(cli: Cli) -> Result<u8> {
    match &cli.command {
        Command::Version => return commands::about::version(cli.json),
        Command::Helper {
            command: HelperCommand::Install { root },
        } => return commands::about::install_helper(root, cli.json),
        Command::Completion { shell } => return commands::about::completion(*shell, cli.json),
        Command::Conformance {
            command: ConformanceCommand::List,
        } => return commands::conformance::list(cli.json),
        _ => {}
    }
    let runtime = start_runtime(&cli.command)?;
    start_thread(&runtime)?;
    let code = runtime.block_on(dispatch(cli));
    // A thread that still reads a terminal must not hold back the end.
    runtime.shutdown_background();
    code
}

/// Starts the runtime, which panics where it has no files left for signals.
fn start_runtime(command: &Command) -> Result<tokio::runtime::Runtime> {
    let failed = || {
        Error::new(ErrorKind::ResourceExhausted, "cannot start the runtime").context(
            "remedy",
            "raise how many files this process may have open (ulimit -n), or free memory",
        )
    };
    unless_panicked(|| {
        // A case that blocks must not hold up the run that gives it up, nor one
        // client another.
        let mut builder = match command {
            Command::Conformance { .. } | Command::Serve(_) => {
                tokio::runtime::Builder::new_multi_thread()
            }
            _ => tokio::runtime::Builder::new_current_thread(),
        };
        builder
            .enable_all()
            .thread_keep_alive(std::time::Duration::from_hours(24 * 365))
            .build()
    })
    .ok_or_else(failed)?
    .map_err(|error| failed().source(error))
}

/// What the work gives; nothing, and no word of it, where it panicked.
fn unless_panicked<T>(work: impl FnOnce() -> T + std::panic::UnwindSafe) -> Option<T> {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let done = std::panic::catch_unwind(work);
    std::panic::set_hook(loud);
    done.ok()
}

/// Starts the first thread for work that blocks. The runtime panics where it
/// cannot start one and has none; one that it has takes all such work.
fn start_thread(runtime: &tokio::runtime::Runtime) -> Result<()> {
    let started = unless_panicked(std::panic::AssertUnwindSafe(|| {
        drop(runtime.spawn_blocking(|| ()));
    }));
    started.ok_or_else(|| {
        Error::new(ErrorKind::ResourceExhausted, "cannot start a thread").context(
            "remedy",
            "end some processes of this user, or raise how many it may have (ulimit -u, pids.max)",
        )
    })
}

async fn dispatch(cli: Cli) -> Result<u8> {
    let json = cli.json;
    let runtime = runtime_of(&cli.command);
    let config = Config::load(&Overrides {
        file: cli.config,
        state_dir: cli.state_dir,
        runtime,
    })?;
    if let Command::Config {
        command: ConfigCommand::Show { origin },
    } = &cli.command
    {
        return commands::show::config(&config, *origin, json);
    }
    #[cfg(target_os = "linux")]
    if let Command::Image { command } = cli.command {
        return commands::image::image(&config, command, json).await;
    }
    let engine = Engine::open(config.clone()).await?;
    let done = match &cli.command {
        Command::Run(args) => commands::run::run(&engine, &config, args, json).await,
        Command::Create(args) => commands::life::create(&engine, args, json).await,
        Command::Exec(args) => commands::exec::exec(&engine, args, json).await,
        Command::Ls(args) => commands::show::ls(&engine, args, json).await,
        Command::Inspect(args) => commands::show::inspect(&engine, args).await,
        Command::Ps(args) => commands::show::ps(&engine, args, json).await,
        Command::Logs(args) => commands::logs::logs(&engine, args, json).await,
        Command::Cp(args) => commands::cp::cp(&engine, args, json).await,
        Command::Kill(args) => commands::life::kill(&engine, args, json).await,
        Command::Extend(args) => commands::life::extend(&engine, args, json).await,
        Command::Leaks(args) => commands::upkeep::leaks(&engine, args, json).await,
        Command::Reconcile => commands::upkeep::reconcile(&engine, json).await,
        Command::Df => commands::upkeep::df(&engine, json).await,
        Command::Prune(args) => commands::upkeep::prune(&engine, args, json).await,
        Command::Probe(args) => commands::probe::probe(&engine, args, json).await,
        Command::Conformance {
            command: ConformanceCommand::Run(args),
        } => commands::conformance::run(&engine, &config, args, json).await,
        Command::Mcp(args) => commands::mcp::mcp(&engine, args).await,
        Command::Serve(args) => commands::serve::serve(&engine, args, json).await,
        Command::Providers => commands::show::providers(&engine, json).await,
        #[cfg(target_os = "linux")]
        Command::Image { .. } => Ok(0),
        Command::Config { .. }
        | Command::Conformance { .. }
        | Command::Helper { .. }
        | Command::Version
        | Command::Completion { .. } => Ok(0),
    };
    let closed = engine.close().await;
    let code = done?;
    closed.map(|()| code)
}

/// The runtime that the arguments ask of a provider; the default one's where
/// they name none.
fn runtime_of(command: &Command) -> Option<(String, String)> {
    let (provider, runtime) = match command {
        Command::Run(args) => (&args.spec.provider, &args.spec.runtime),
        Command::Create(args) => (&args.spec.provider, &args.spec.runtime),
        Command::Mcp(args) => (&args.spec.provider, &args.spec.runtime),
        Command::Conformance {
            command: ConformanceCommand::Run(args),
        } => (&args.provider, &args.runtime),
        _ => return None,
    };
    Some((provider.clone().unwrap_or_default(), runtime.clone()?))
}
