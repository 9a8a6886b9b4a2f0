//! Bodies for the methods that a provider does not have.

/// Writes methods of [`Provider`](crate::provider::Provider) that return
/// `unsupported` before any effect, within an `impl` of it.
///
/// The trait has no default bodies, so that a method that is new cannot be forgotten;
/// this is how a provider says by name which ones it does not have. Its capabilities
/// must say the same.
///
/// ```
/// # use stacyvm::{Context, ExecId, ExecSpec, Result, SandboxId, SandboxSpec};
/// # use stacyvm::provider::*;
/// # use stacyvm::sandbox::{exec::{ExecInfo, ExecSession}, state::Observed};
/// #[derive(Debug)]
/// struct Mine;
///
/// #[async_trait::async_trait]
/// impl Provider for Mine {
/// #   fn info(&self) -> ProviderInfo { ProviderInfo::new("mine", "host") }
/// #   fn capabilities(&self) -> Capabilities { Capabilities::default() }
/// #   async fn create(&self, _: &Context, request: &CreateRequest) -> Result<Observed> {
/// #       Ok(Observed::running(request.id.clone()))
/// #   }
///     async fn destroy(&self, cx: &Context, id: &SandboxId) -> Result<()> {
///         // ...
/// #       Ok(())
///     }
///
///     stacyvm::unsupported! {
///         probe, pull, origin, claim, inspect, list, set_deadline, set_lifetime, pause,
///         resume, exec, attach, read_log, list_execs, signal_exec, file, read_file, write_file, watch,
///         export_tar, import_tar, dial, listen, endpoint, processes, usage, snapshot,
///         delete_snapshot, leftovers, remove_leftover, disk_use, tidy,
///     }
/// }
/// ```
#[macro_export]
macro_rules! unsupported {
    ($($method:ident),+ $(,)?) => { $($crate::unsupported!(@of $method);)+ };

    (@of probe) => { $crate::unsupported!(@is probe [] -> $crate::provider::ProbeReport); };
    (@of pull) => { $crate::unsupported!(@is pull ['b &'b $crate::provider::PullRequest] -> ()); };
    (@of create) => { $crate::unsupported!(@is create ['b &'b $crate::provider::CreateRequest] -> $crate::sandbox::state::Observed); };
    (@of origin) => { $crate::unsupported!(@is origin ['b &'b $crate::SandboxSpec] -> ::std::string::String); };
    (@of claim) => { $crate::unsupported!(@on claim ['c &'c $crate::provider::ClaimRequest] -> ()); };
    (@of inspect) => { $crate::unsupported!(@on inspect [] -> $crate::sandbox::state::Observed); };
    (@of list) => { $crate::unsupported!(@is list ['b ::std::option::Option<&'b $crate::SandboxId>, u32] -> ::std::vec::Vec<$crate::sandbox::state::Observed>); };
    (@of set_deadline) => { $crate::unsupported!(@on set_deadline [::std::option::Option<::std::time::SystemTime>] -> ()); };
    (@of set_lifetime) => { $crate::unsupported!(@on set_lifetime [$crate::sandbox::spec::Lifetime] -> ()); };
    (@of pause) => { $crate::unsupported!(@on pause [] -> ()); };
    (@of resume) => { $crate::unsupported!(@on resume [] -> ()); };
    (@of destroy) => { $crate::unsupported!(@on destroy [] -> ()); };
    (@of exec) => { $crate::unsupported!(@on exec ['c &'c $crate::ExecSpec] -> $crate::sandbox::exec::ExecSession); };
    (@of attach) => { $crate::unsupported!(@on attach ['c &'c $crate::ExecId, $crate::sandbox::exec::AttachOptions] -> $crate::sandbox::exec::ExecSession); };
    (@of read_log) => { $crate::unsupported!(@on read_log ['c &'c $crate::ExecId, $crate::sandbox::exec::LogOptions] -> $crate::sandbox::exec::BoxStream<$crate::Result<$crate::ExecEvent>>); };
    (@of list_execs) => { $crate::unsupported!(@on list_execs [] -> ::std::vec::Vec<$crate::sandbox::exec::ExecInfo>); };
    (@of signal_exec) => { $crate::unsupported!(@on signal_exec ['c &'c $crate::ExecId, i32, $crate::SignalScope] -> ()); };
    (@of file) => { $crate::unsupported!(@on file ['c &'c $crate::sandbox::files::FileRequest] -> $crate::sandbox::files::FileReply); };
    (@of read_file) => { $crate::unsupported!(@on read_file ['c &'c $crate::sandbox::files::ReadRequest] -> ($crate::sandbox::files::FileEntry, $crate::sandbox::files::ByteStream)); };
    (@of write_file) => { $crate::unsupported!(@on write_file ['c &'c $crate::sandbox::files::WriteRequest, $crate::sandbox::files::ByteStream] -> $crate::sandbox::files::FileEntry); };
    (@of watch) => { $crate::unsupported!(@on watch ['c &'c $crate::sandbox::files::WatchRequest] -> $crate::sandbox::exec::BoxStream<$crate::Result<$crate::sandbox::files::WatchEvent>>); };
    (@of export_tar) => { $crate::unsupported!(@on export_tar ['c &'c $crate::sandbox::files::ExportRequest] -> $crate::sandbox::files::Archive); };
    (@of import_tar) => { $crate::unsupported!(@on import_tar ['c &'c $crate::sandbox::files::ImportRequest, $crate::sandbox::files::ByteStream] -> ()); };
    (@of dial) => { $crate::unsupported!(@on dial [u16] -> $crate::provider::Connection); };
    (@of listen) => { $crate::unsupported!(@on listen [u16] -> $crate::provider::PortListener); };
    (@of endpoint) => { $crate::unsupported!(@on endpoint [u16] -> $crate::provider::Endpoint); };
    (@of processes) => { $crate::unsupported!(@on processes [] -> ::std::vec::Vec<$crate::sandbox::state::ProcessInfo>); };
    (@of usage) => { $crate::unsupported!(@on usage [] -> $crate::sandbox::state::Usage); };
    (@of snapshot) => { $crate::unsupported!(@on snapshot ['c &'c $crate::id::SnapshotId] -> $crate::provider::SnapshotInfo); };
    (@of delete_snapshot) => { $crate::unsupported!(@is delete_snapshot ['b &'b $crate::id::SnapshotId] -> ()); };
    (@of leftovers) => { $crate::unsupported!(@is leftovers [$crate::provider::Reach] -> ::std::vec::Vec<$crate::provider::Leftover>); };
    (@of remove_leftover) => { $crate::unsupported!(@is remove_leftover ['b &'b str] -> ()); };
    (@of disk_use) => { $crate::unsupported!(@is disk_use [] -> ::std::vec::Vec<$crate::provider::DiskUse>); };
    (@of tidy) => { $crate::unsupported!(@is tidy ['b &'b $crate::provider::TidyRequest] -> $crate::provider::Tidied); };

    // A call on a sandbox, and one on the provider.
    (@on $name:ident [$life:lifetime $($of:ty),*] -> $out:ty) => {
        $crate::unsupported!(@fn $name ['b, $life] (&'b $crate::SandboxId, $($of),*) -> $out);
    };
    (@on $name:ident [$($of:ty),*] -> $out:ty) => {
        $crate::unsupported!(@fn $name ['b] (&'b $crate::SandboxId, $($of),*) -> $out);
    };
    (@is $name:ident [$life:lifetime $($of:ty),*] -> $out:ty) => {
        $crate::unsupported!(@fn $name [$life] ($($of),*) -> $out);
    };
    (@is $name:ident [$($of:ty),*] -> $out:ty) => {
        $crate::unsupported!(@fn $name [] ($($of),*) -> $out);
    };

    // What `async_trait` makes of an `async fn`: it has been through this `impl`
    // already when macros in it are expanded.
    (@fn $name:ident [$($life:lifetime),*] ($($of:ty),* $(,)?) -> $out:ty) => {
        fn $name<'s, 'a, $($life,)* 'f>(
            &'s self,
            _: &'a $crate::Context,
            $(_: $of),*
        ) -> ::std::pin::Pin<::std::boxed::Box<
            dyn ::std::future::Future<Output = $crate::Result<$out>> + ::std::marker::Send + 'f,
        >>
        where
            's: 'f,
            'a: 'f,
            $($life: 'f,)*
            Self: 'f,
        {
            ::std::boxed::Box::pin(async {
                Err($crate::Error::unsupported("this provider does not have it")
                    .operation(::std::stringify!($name)))
            })
        }
    };
}
