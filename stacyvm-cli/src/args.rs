//! The command line, as data.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

/// Disposable machines, with nothing to install.
#[derive(Debug, Parser)]
#[command(
    name = "stacyvm",
    version,
    about,
    max_term_width = 100,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Directory for state, instead of the user's state directory
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Print JSON; of bytes that are not UTF-8, base64 (`x_encoding` says so)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a sandbox, run a command in it, throw it away
    Run(RunArgs),
    /// Make a sandbox and print its id
    Create(CreateArgs),
    /// Run a command in a sandbox
    Exec(ExecArgs),
    /// List sandboxes
    Ls(LsArgs),
    /// Show all that is known of sandboxes
    Inspect(IdsArgs),
    /// List the commands and processes of a sandbox
    Ps(IdArgs),
    /// Show what commands of a sandbox wrote, as far as it is kept
    Logs(LogsArgs),
    /// Copy files in or out; one side is SANDBOX:PATH, `-` is a tar stream
    Cp(CpArgs),
    /// End sandboxes and remove all that is theirs
    Kill(KillArgs),
    /// Give a sandbox more time
    Extend(ExtendArgs),
    /// List what of stacyvm nobody accounts for any more; exits with 3 where there is something.
    /// What a dead helper left in the state directory is taken away first, as by every command
    Leaks(LeaksArgs),
    /// Make records agree with what there is, and take away what dead helpers left
    Reconcile,
    /// Show what takes room on the disk
    Df,
    /// Remove records of ended sandboxes and what nobody needs
    Prune(PruneArgs),
    /// Images that sandboxes are made from
    #[cfg(target_os = "linux")]
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// List the providers and whether this host can run them
    Providers,
    /// Try to escape from sandboxes, and from a weak place for comparison; exits with 1 where
    /// something fired, with 4 where a silence proves nothing
    Probe(ProbeArgs),
    /// Prove that a provider keeps the contract
    Conformance {
        #[command(subcommand)]
        command: ConformanceCommand,
    },
    /// Serve a provider to programs of this host, by HTTP on a loopback address. All of them
    /// are served: there are no identities
    Serve(ServeArgs),
    /// Give an AI agent tools that work in a sandbox, by the Model Context Protocol on the
    /// standard streams. The sandbox is made by the first call, and ends with this
    Mcp(McpArgs),
    /// Show settings
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Install the program that makes embedded sandboxes, as root
    Helper {
        #[command(subcommand)]
        command: HelperCommand,
    },
    /// Show versions
    Version,
    /// Print a completion script
    Completion {
        /// For this shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Loopback address and port; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7070")]
    pub(crate) listen: String,
    /// Provider, as configured [default: oci]
    #[arg(long)]
    pub(crate) provider: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct McpArgs {
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HelperCommand {
    /// Put it at /usr/libexec/stacyvm, with an AppArmor profile where that is needed
    Install {
        /// Below this directory instead of /
        #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
        root: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConformanceCommand {
    /// Run cases of the suite
    ///
    /// Ends with 0 where every case passed or was declined as the contract says, 1
    /// where one failed, 4 where none failed and some could not be run.
    Run(ConformanceArgs),
    /// List the cases, one a line, its id first
    List,
}

#[derive(Debug, Args)]
pub(crate) struct ConformanceArgs {
    /// Provider, as configured [default: oci]
    #[arg(long)]
    pub(crate) provider: Option<String>,
    /// Runtime below the provider
    #[arg(long)]
    pub(crate) runtime: Option<String>,
    /// `host`, an absolute root directory, or an image reference
    #[arg(long, default_value = "host")]
    pub(crate) image: String,
    /// The cases of a suite alone; again for another one
    #[arg(long, value_name = "SUITE")]
    pub(crate) suite: Vec<String>,
    /// The cases that fit a pattern alone, in which `*` is any text; again for another one
    #[arg(long, value_name = "GLOB")]
    pub(crate) case: Vec<String>,
    /// How many cases run at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
    /// How long a case, and opening the provider, may take (30s, 5m)
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub(crate) deadline: String,
    /// Write the report as JUnit to a file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) junit: Option<PathBuf>,
    /// With `--json`: where the report goes, instead of standard output
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) report: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show the settings in force
    Show {
        /// Show where each setting comes from
        #[arg(long)]
        origin: bool,
    },
}

/// What a sandbox should be.
#[derive(Clone, Debug, Args)]
pub(crate) struct SpecArgs {
    /// Provider, as configured [default: oci]
    #[arg(long)]
    pub(crate) provider: Option<String>,
    /// Runtime of the provider: runc, crun, runsc, ...
    #[arg(long)]
    pub(crate) runtime: Option<String>,
    /// `host`, an absolute root directory, or an image reference
    #[arg(long, default_value = "host")]
    pub(crate) image: String,
    /// When the image is pulled from its registry: missing, never or always [default: missing]
    #[arg(long, value_name = "WHEN")]
    pub(crate) pull: Option<String>,
    /// Memory: MiB, or with a unit (512m, 2g)
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    /// Processors (0.5 is half of one)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) cpus: Option<f64>,
    /// Processes and threads; embedded, a quarter of them, at most 32, is kept for the agent
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) pids: Option<i64>,
    /// Writable disk: MiB, or with a unit (512m, 2g)
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) disk: Option<String>,
    /// none, full, or allow=HOST[,HOST...]
    #[arg(long)]
    pub(crate) network: Option<String>,
    // In a documentation comment the brackets would be a link.
    #[arg(
        long = "mount",
        value_name = "MOUNT",
        help = "SOURCE:TARGET[:rw], with an absolute directory or volume:NAME[=SIZE] or tmpfs=SIZE as source"
    )]
    pub(crate) mounts: Vec<String>,
    /// NAME=VALUE, or NAME for the value in this environment
    #[arg(short, long = "env", value_name = "ENV")]
    pub(crate) env: Vec<String>,
    /// Directory of commands that name none
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// name, uid, name:group or uid:gid
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// How long the sandbox lives (30s, 5m, 2h)
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) ttl: Option<String>,
    /// How long the sandbox lives without use (5m); what runs inside is use
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) idle_timeout: Option<String>,
    /// KEY=VALUE
    #[arg(short, long = "label", value_name = "LABEL")]
    pub(crate) labels: Vec<String>,
    /// The same key and the same request give the same sandbox
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// default or strict
    #[arg(long)]
    pub(crate) profile: Option<String>,
    /// Root file system cannot be written
    #[arg(long)]
    pub(crate) read_only: bool,
    /// What root inside may do: none, or namespaced-root for package managers
    #[arg(long)]
    pub(crate) privileges: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    /// When the command is killed (30s, 5m)
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) timeout: Option<String>,
    /// Forward standard input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal; what is typed is its own, every Ctrl-C too
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Leave the sandbox and print its id on standard error
    #[arg(long)]
    pub(crate) keep: bool,
    /// The command and its arguments, instead of the image's entrypoint and command
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) argv: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// Provider, as configured [default: oci]
    #[arg(long)]
    pub(crate) provider: Option<String>,
    /// `host`, an absolute root directory, or an image reference
    #[arg(long, default_value = "host")]
    pub(crate) image: String,
    /// What root inside may do: none or namespaced-root
    #[arg(long)]
    pub(crate) privileges: Option<String>,
    /// One family of probes: agent, seccomp, ...
    #[arg(long, value_name = "FAMILY")]
    pub(crate) only: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    /// How long making it may take (30s, 5m)
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) timeout: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Forward standard input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal; what is typed is its own, every Ctrl-C too
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Leave it running and print its id
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    pub(crate) detach: bool,
    /// NAME=VALUE, or NAME for the value in this environment
    #[arg(short, long = "env", value_name = "ENV")]
    pub(crate) env: Vec<String>,
    /// Directory to start in
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// name, uid, name:group or uid:gid
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// When the command is killed (30s, 5m)
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) timeout: Option<String>,
    /// The sandbox's id, or its beginning
    pub(crate) sandbox: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) argv: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Show ended sandboxes too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Print ids only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Show those with this label (KEY=VALUE)
    #[arg(short, long = "label", value_name = "LABEL")]
    pub(crate) labels: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// The sandbox's id, or its beginning
    pub(crate) sandbox: String,
}

#[derive(Debug, Args)]
pub(crate) struct IdsArgs {
    /// Sandbox ids, or their beginnings
    #[arg(required = true)]
    pub(crate) sandboxes: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Sandbox ids, or their beginnings
    #[arg(required_unless_present = "all")]
    pub(crate) sandboxes: Vec<String>,
    /// End every sandbox of this state directory
    #[arg(long, conflicts_with = "sandboxes")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LeaksArgs {
    /// Everything of stacyvm on this host that this user can see, of whatever state directory, with
    /// what is accounted for
    #[arg(long, conflicts_with = "remove")]
    pub(crate) all: bool,
    /// Remove the one with this id; never what a living owner holds
    #[arg(long, value_name = "ID")]
    pub(crate) remove: Option<String>,
    /// Do not ask
    #[arg(long, requires = "remove")]
    pub(crate) yes: bool,
}

#[cfg(target_os = "linux")]
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Bring an image from its registry
    Pull(PullArgs),
    /// Bring an image from a file or directory: oci:DIR, oci-archive:FILE or
    /// docker-archive:FILE, each with :TAG behind it or not, or rootfs-archive:FILE
    Import {
        /// Where from
        source: String,
        /// Its name in the store, instead of the one that it brings
        #[arg(long)]
        name: Option<String>,
    },
    /// List images
    Ls,
    /// Show all that is known of an image, as JSON
    Inspect {
        /// Its name, or its digest or the beginning of that
        image: String,
    },
    /// Remove names, and what no other name and no sandbox needs
    Rm {
        /// Names or digests
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Remove what no name leads to and no sandbox has
    Prune,
    /// Write an image into a file
    Export {
        /// Its name, or its digest or the beginning of that
        image: String,
        /// The file; `-` is standard output
        file: std::path::PathBuf,
        /// The form
        #[arg(long, value_enum, default_value = "oci")]
        format: ImageFormat,
    },
}

#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ImageFormat {
    /// A tar of an OCI layout; the digest stays
    Oci,
    /// What `docker load` reads
    Docker,
}

#[cfg(target_os = "linux")]
#[derive(Clone, Debug, Args)]
pub(crate) struct PullArgs {
    /// The reference: NAME, NAME:TAG or NAME@sha256:…, with its registry in front
    pub(crate) image: String,
    /// Its name in the store, instead of the reference
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Credentials as Docker keeps them, instead of the usual file
    #[arg(long, value_name = "FILE")]
    pub(crate) auth_file: Option<std::path::PathBuf>,
    /// Certificate authorities to trust beside those of the system
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Vec<std::path::PathBuf>,
    /// A registry that may be spoken to without TLS
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) insecure: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Keep records of sandboxes that ended later than this ago (1h, 7d)
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) older_than: Option<String>,
    /// Remove volumes that no sandbox has, too
    #[arg(long)]
    pub(crate) volumes: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExtendArgs {
    /// The sandbox's id, or its beginning
    pub(crate) sandbox: String,
    /// How long it lives from now (30s, 5m, 2h)
    #[arg(allow_hyphen_values = true)]
    pub(crate) ttl: String,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The sandbox's id, or its beginning
    pub(crate) sandbox: String,
    /// Of this command alone, as it was written: an id that `ps` shows, or its beginning
    #[arg(short, long, value_name = "ID")]
    pub(crate) process: Option<String>,
    /// Go on with what comes
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Leave out what is older than this (30s, 5m), or than this time (2026-01-31T12:00:00Z)
    #[arg(long, value_name = "DURATION|TIME", allow_hyphen_values = true)]
    pub(crate) since: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// Keep owners (copying in needs root inside)
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Follow a symbolic link given as source
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// Do it with the rights of this user inside
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// A path, SANDBOX:PATH, or - for a tar stream on standard input
    pub(crate) source: String,
    /// A path, SANDBOX:PATH, or - for a tar stream on standard output. A link inside is
    /// followed; one of this host to a file is refused. Set-id bits are not kept
    pub(crate) destination: String,
}

/// Whether these arguments, which do not parse, ask for JSON. What follows `--`
/// is a command's.
pub(crate) fn ask_for_json(arguments: impl Iterator<Item = OsString>) -> bool {
    arguments
        .take_while(|argument| argument != "--")
        .any(|argument| argument == "--json")
}

/// What is wrong with the arguments.
pub(crate) fn usage_error(error: &clap::Error) -> stacyvm::Error {
    let text = error.render().to_string();
    let text = text.trim().trim_start_matches("error: ");
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    stacyvm::Error::new(stacyvm::ErrorKind::InvalidArgument, lines.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_command_belongs_to_it() {
        let cli = Cli::parse_from(["stacyvm", "run", "--memory", "64", "ls", "--json", "-l"]);
        assert!(!cli.json);
        let Command::Run(run) = cli.command else {
            panic!("not run")
        };
        assert_eq!(run.argv, ["ls", "--json", "-l"]);
    }
}
