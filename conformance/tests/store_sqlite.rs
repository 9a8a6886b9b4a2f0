//! The store in a file fulfils the contract.

#[cfg(all(unix, feature = "sqlite"))]
mod file {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::sync::Arc;
    use std::{fs, io};

    use stacyvm::Result;
    use stacyvm::store::{SqliteStore, StateDir, Store};
    use stacyvm_conformance::store::{Released, StoreHarness};

    pub(crate) struct InAFile;

    /// There has been one schema so far.
    const RELEASED: [Released; 1] = [Released {
        schema: 1,
        lay_out: |place| lay_out(place, "schema-1.db"),
    }];

    fn lay_out(place: &Path, name: &str) -> io::Result<()> {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../stacyvm/src/store/sqlite/tests");
        let state = StateDir::open(place).map_err(io::Error::other)?;
        let file = state.path().join("store.db");
        fs::copy(kept.join(name), &file)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))
    }

    #[async_trait::async_trait]
    impl StoreHarness for InAFile {
        fn name(&self) -> &'static str {
            "sqlite"
        }

        async fn open(&self, place: &Path) -> Result<Arc<dyn Store>> {
            let state = StateDir::open(place)?;
            Ok(Arc::new(SqliteStore::open(&state).await?))
        }

        fn lasts(&self) -> bool {
            true
        }

        fn released(&self) -> &[Released] {
            &RELEASED
        }
    }
}

#[cfg(all(unix, feature = "sqlite"))]
stacyvm_conformance::store_main!(file::InAFile);

#[cfg(not(all(unix, feature = "sqlite")))]
#[expect(clippy::print_stderr, reason = "this is the front end")]
fn main() {
    eprintln!("not run: the store in a file is for Unix, with the feature `sqlite`");
}
