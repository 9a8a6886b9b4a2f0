//! Images of registries, brought into the image store.

use super::images::Images;
use crate::context::Context;
use crate::error::Result;
use crate::provider::{Pull, PullRequest};
use crate::sandbox::spec::Source;

impl Images {
    /// Brings the image of a registry into the store, where it is to be pulled.
    ///
    /// # Errors
    ///
    /// Those of a pull.
    pub(super) async fn pull(&self, cx: &Context, request: &PullRequest) -> Result<()> {
        match (&request.source, request.when) {
            (_, Pull::Never) => Ok(()),
            (Source::Image(name), _) if name != "host" && !name.starts_with('/') => {
                self.pull_image(cx, name, request).await
            }
            (Source::Image(_) | Source::Template(_) | Source::Snapshot(_), _) => Ok(()),
        }
    }

    #[cfg(feature = "registry")]
    async fn pull_image(&self, cx: &Context, name: &str, request: &PullRequest) -> Result<()> {
        use crate::error::{Error, ErrorKind};
        use crate::image::{ImageSource, PullOptions};
        let Ok(ImageSource::Registry(reference)) = name.parse() else {
            return Ok(());
        };
        // The store has it or not.
        if crate::image::is_digest(name) {
            return Ok(());
        }
        if request.when == Pull::Missing
            && let Some(store) = self.opened.get()
            && store.has_name(&reference)
        {
            return Ok(());
        }
        let mut options = PullOptions::of(&self.from);
        options.observer.clone_from(&request.observer);
        let (name, images) = (name.to_owned(), self.clone());
        let (inside, canceller) = cx.clone().cancellable();
        let _given_up = GivenUp(canceller);
        let always = request.when == Pull::Always;
        let work = tokio::task::spawn_blocking(move || {
            let store = images.store()?;
            if always {
                return store.pull(&inside, &reference, &options).map(drop);
            }
            match store.find(&name) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let pulled = store.pull_missing(&inside, &reference, &options);
                    pulled.map(drop).map_err(|error| {
                        let name = name.escape_debug();
                        error.context(
                            "instead",
                            format!("get it with `stacyvm image pull {name}` where that is possible, or `stacyvm image import` it from a file"),
                        )
                    })
                }
                // Whether it is whole, a create finds out.
                _ => Ok(()),
            }
        });
        let died = |error| {
            Error::new(ErrorKind::Internal, "the task that pulls the image died").source(error)
        };
        cx.bound(async { work.await.map_err(died)? }).await
    }

    #[cfg(not(feature = "registry"))]
    #[expect(clippy::unused_async, reason = "the other one waits")]
    async fn pull_image(&self, _cx: &Context, name: &str, request: &PullRequest) -> Result<()> {
        if request.when == Pull::Missing {
            return Ok(());
        }
        Err(crate::error::Error::unsupported(
            "this build pulls no images, which `pull: always` asks for; build it with the feature `registry`, or bring the image with `stacyvm image pull`",
        )
        .context("field", "pull")
        .context("image", name))
    }
}

/// Ends the work of a thread when nobody waits for it any more.
#[cfg(feature = "registry")]
struct GivenUp(crate::context::Canceller);

#[cfg(feature = "registry")]
impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
