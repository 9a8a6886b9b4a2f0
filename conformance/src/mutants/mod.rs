//! Providers that lie once each: they show that the suite can fail.
//!
//! A [`Liar`] wraps any provider and breaks one promise. A suite under which one
//! of them survives has a hole. A [`Hunt`] tells which case finds which out.
//! Labels are the engine's, and no provider tells of them: lies about them are told by
//! the records that a [`Hunt`] gives its engines, and by no [`Liar`].

mod exec;
mod files;
mod hunt;
mod liar;
mod records;
mod world;

pub(crate) use hunt::Lying;
pub use hunt::{Catch, Hunt};
pub use liar::Liar;

macro_rules! lies {
    ($($name:ident $text:literal;)*) => {
        /// What a [`Liar`] does wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Lie {
            $(#[doc = $text] $name,)*
        }

        impl Lie {
            /// Every lie.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What is done wrong, for people.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The lie of this name.
            pub(crate) fn named(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }
        }
    };
}

lies! {
    LosesLastByte "the last byte of the output is lost";
    SwapsStreams "standard output and standard error are swapped";
    RepeatsOutput "the first piece of output comes twice";
    BreaksBytes "output that is not UTF-8 is replaced";
    EndsBeforeOutput "the end comes before the last output";
    EndsTwice "the end comes twice";
    NeverEnds "the events end without an exit";
    HidesCodes "every code is 0";
    HidesSignals "a command that was killed exits with 0";
    HidesTimeouts "a timeout is told as a kill";
    InventsTimeouts "a kill is told as a timeout";
    IgnoresEnv "variables of a command are ignored";
    IgnoresUser "the user of a command is ignored";
    IgnoresWorkdir "the directory of a command is ignored";
    IgnoresTimeout "a command's timeout is ignored";
    IgnoresArguments "a command gets its first argument alone";
    LosesStdin "standard input is thrown away";
    CutsStdin "standard input is cut at 64 KiB";
    KeepsStdinOpen "standard input never ends";
    OpensStdin "standard input that was not asked for never ends";
    NotFoundIsAnExit "a command that is not there exits with 127";
    WaitsForServers "the end waits for processes that are left";
    LeavesTreeOnTimeout "a timeout leaves the command running";
    LeavesTreeOnDrop "dropping a command leaves it running";
    IgnoresSignals "signals of a session go nowhere";
    IgnoresSignalsById "signals by id go nowhere";
    RunsOneAtATime "a command waits for the one before";
    ForgetsBackground "background commands end with their session";
    ForgetsCommands "no command is listed";
    ForgetsReplay "a later follower gets no earlier output";
    HidesLoss "output that was lost is not counted";
    IgnoresExecId "a command gets another id than it was given";
    RunsAfterDestroy "a command in a sandbox that ended exits with 0";
    DestroysNothing "destroy does nothing";
    DestroysOnce "a second destroy fails";
    SeesTheDead "a sandbox that ended is seen running";
    ForgetsSandboxes "no sandbox is listed";
    IgnoresSpecEnv "variables of the sandbox are ignored";
    IgnoresEnds "a TTL is ignored at create";
    IgnoresDeadline "a moved end is ignored";
    PausesNothing "pause does nothing";
    NeverResumes "resume does nothing";
    SharesSandboxes "two sandboxes are one";
    MakesUnknown "an unknown id is an internal error";
    HidesProcesses "no process is listed";
    ClaimsTerminals "terminals are claimed and refused";
    ClaimsLimits "limits of memory and processes are claimed and not set";
    ClaimsNoPause "pausing is not claimed and done";
    ClaimsNoFiles "files are not claimed and done";
    ClaimsNoWatches "watches are not claimed and done";
    ClaimsNoArchives "archives are not claimed and done";
    ClaimsNoDials "connections to ports are not claimed and made";
    ClaimsNoListeners "listening on ports is not claimed and done";
    GivesEndpoints "addresses of ports are not claimed and given";
    CutsReads "the last byte of a file is not read";
    CutsWrites "the last byte of a file is not written";
    IgnoresOffset "a read begins at the beginning";
    IgnoresModes "the mode of a new file is ignored";
    IgnoresAppend "appending replaces";
    IgnoresCreateNew "a file that must be new replaces";
    FollowsLinks "a look at a link sees its target";
    HidesFiles "the last entry of a directory is not listed";
    RenamesOver "a rename replaces what it must not";
    RemovesMissing "removing what is not there is success";
    RemovesDirectories "a directory with entries is removed without being told to";
    IgnoresAttributes "attributes are not set";
    RepeatsAppends "what is appended is appended twice";
    EmptiesFirst "a file is emptied before it is replaced";
    KeepsHalves "what came of a file before its data failed is kept";
    MakesParents "missing directories are made unasked";
    IgnoresFileUser "the user of a file operation is ignored";
    HidesCauses "what fails with a file is an internal error";
    UnsortsLists "a directory is listed in another order";
    ListsOneLevel "a listing goes one level deep";
    IgnoresRecursion "attributes of what is below are not set";
    IgnoresDirectoryModes "the mode of a new directory is ignored";
    FindsWithoutEnd "a pattern finds more paths than asked for";
    WatchesFlat "a watch does not see what is below";
    WatchesLate "a watch begins when it is read";
    HidesOverflow "a watch that lost events does not say so";
    FollowsExports "a link is sent as what it leads to";
    IgnoresImportOwners "owners of an archive are not kept";
    HidesBadArchives "an archive that is refused is success";
    DialsNobody "a connection is given where nobody listens";
    EndsBothWays "a connection ends both ways when one does";
    ListensToNobody "a listener gets no connection";
    GlobsNothing "no path fits a pattern";
    WatchesNothing "a watch sees nothing";
    CutsArchives "the end of an archive is missing";
    DialsNothing "a connection to a port ends at once";
    IgnoresMounts "host directories and volumes are claimed and not mounted";
    MountsAllWritable "a mount that is not to be written is";
    SharesVolumes "all volumes are one";
    AcceptsAllowLists "a list of what is reached is accepted and not held";
    IgnoresMemory "a limit of memory is not set";
    IgnoresCpus "a limit of processors is told and not set";
    IgnoresOpenFiles "a limit of open files is not set";
    IgnoresDisk "a limit of the disk is not set";
    ShowsOtherLimits "other limits are told than were asked for";
    HidesLackOfMemory "a kill for lack of memory is told as any other";
    GivesRights "root inside has rights that it was not given";
    ListsAllProcesses "the processes of every sandbox are listed in each";
    BreaksWhenAttacked "a sandbox whose process 1 was signalled fails with an internal error";
    KnowsOnlyItsOwn "sandboxes of another engine are not found";
    FreezesUsage "usage is what it was at first";
    ForgetsSavedFiles "a sandbox of a snapshot is a new one";
    KeepsDeletedSnapshots "a snapshot that was deleted is still there";
    HangsWhenAttacked "a sandbox whose process 1 was signalled answers no more";
    FailsNeighbours "when a sandbox is attacked every sandbox fails";
    ListsAllCommands "the commands of every sandbox are listed in each";
    SignalsFirstProcess "a signal to all processes reaches the first one";
    LeaksDescriptors "a command has a descriptor that it was not given";
    SharesDescriptors "each command leaves fewer descriptors for the next";
    EndsWithOutput "a command is told to have ended when its output ends";
    TrustsTitles "the title of a process changes what else is told of it";
    ForgetsSecrets "secrets are thrown away";
    TellsSecrets "the value of a secret is told by a look";
    MakesTwo "each create makes a sandbox that nobody asked for";
    DuplicatesOnRetry "a create that is repeated makes another sandbox";
    TellsOneOrigin "every source has one origin";
    TellsOtherTenants "a sandbox is told to be another tenant's";
    LeavesUnowned "a destroy leaves something of which no sandbox is known";
    PassesEnvironment "the variables of the host's process reach commands";
    IgnoresIdleness "an idle timeout is ignored";
    EndsInUse "a sandbox in use ends as an idle one";
    RenewsWithUse "each command moves the end of its sandbox";
    ClaimsNoEnds "moving an end is not claimed and done";
    ClaimsOneUser "one user is claimed and others are had";
    ClaimsOneSignal "SIGKILL alone is claimed and others are sent";
    ClaimsNoClaims "claims are not claimed and answered";
    GivesAllAway "a sandbox that does not wait is claimed";
    AcceptsDirectories "a root directory is accepted and another one given";
    AcceptsPorts "published ports are claimed and not published";
    ClaimsFilters "a filter of system calls is claimed and not there";
    ClaimsMappedRoot "root is claimed to be mapped and is not";
    HidesLongNames "a command whose name is too long is an internal error";
    ClaimsFullNetworks "a full network is claimed and not given";
    OutlivesItsOwner "an attached sandbox goes on without its owner";
    EndsWithItsHost "a detached sandbox ends with the process that made it";
    ChangesNoLifetime "a lifetime is changed without effect";
    ForgetsLabels "labels are forgotten";
    ForgetsLabelsAtTheEnd "labels are forgotten when a sandbox ends";
    IgnoresLabels "a list of those with some labels is one of all";
}
