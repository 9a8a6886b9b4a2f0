//! Images: one content-addressed store that all providers share.
//!
//! ```no_run
//! use stacyvm::image::{Images, ImportOptions};
//! use stacyvm::Context;
//!
//! # fn example() -> stacyvm::Result<()> {
//! let images = Images::open("/var/lib/stacyvm/images".as_ref())?;
//! let source = "oci-archive:/tmp/app.tar".parse()?;
//! let image = images.import(&Context::default(), &source, &ImportOptions::named("app:1"))?;
//! let root = images.root(&image)?; // the layers, topmost first
//! let in_use = images.hold(&image)?; // as long as it is open, the image stays
//! # Ok(())
//! # }
//! ```
//!
//! # The directory
//!
//! | path | what lies there |
//! |---|---|
//! | `blobs/sha256/HEX` | manifests, configurations and layers, exactly as they came |
//! | `layers/HEX-FLAVOUR/fs` | one unpacked layer, by the digest of its archive, as a lower directory of overlayfs |
//! | `layers/HEX-FLAVOUR/record.json` | what was counted while it was unpacked ([`LayerRecord`]) |
//! | `layers/HEX-FLAVOUR/owners` | who owns what, where this user could not say it to the file system (`stacyvm_agent::owners`) |
//! | `mapped/HEX-UID-GID/fs` | a copy of such a layer whose files have their owners in the range of subordinate ids that begins there |
//! | `refs/NAME` | the manifest that a name stands for |
//! | `tmp/` | work in progress, each under a lock of its maker |
//! | `locks/` | locks: of the store, of layers being made, of images in use |
//!
//! What has its final name is whole and verified: everything is made in `tmp/`
//! and gets that name by a rename, after what matters is on the disk. What a
//! killed process left in `tmp/` is told by its free lock, and swept when the
//! store is opened next.
//!
//! # Flavours
//!
//! Unpacked by root, files have the owners of the image (`ids`). Unpacked by an
//! ordinary user all is that user's (`own`), and the owners are on record.
//!
//! # Blocking
//!
//! Every method works on the disk and blocks. In an asynchronous program call
//! them by `tokio::task::spawn_blocking`. Long ones take a
//! [`Context`](crate::Context) and end soon after its deadline or cancellation.

mod caps;
mod config;
mod digest;
mod export;
mod import;
mod manifest;
mod platform;
#[cfg(feature = "registry")]
mod registry;
mod root;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod unpack;

pub use caps::Caps;
pub use config::ImageConfig;
pub use digest::Digest;
#[cfg(all(feature = "registry", feature = "oci"))]
pub(crate) use digest::is_digest;
pub use export::ExportFormat;
pub use import::{BlobSource, ImportOptions};
pub use manifest::{Descriptor, Document, ImageFile, Index, Manifest, media};
pub use platform::Platform;
#[cfg(feature = "registry")]
pub use registry::{Credentials, PullOptions, Secret};
pub use root::{Restored, Root};
pub use source::{ImageSource, Reference};
pub use store::{Damage, DiskUse, Flavour, Hold, Image, Images, Layer, Pruned, Removed, Summary};
#[cfg(feature = "oci")]
pub(crate) use store::{LayerCopy, Range};
pub use unpack::{DeviceNode, LayerRecord};
