//! `image`: what sandboxes are made from.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stacyvm::config::{Config, ImagesConfig};
use stacyvm::image::{
    Caps, ExportFormat, Image, ImageSource, Images, ImportOptions, PullOptions, Reference,
};
use stacyvm::store::StateDir;
use stacyvm::{Context, Error, ErrorKind, Result};

use super::printed;
use crate::args::{ImageCommand, ImageFormat, PullArgs};
use crate::progress::Bar;
use crate::{output, session};

/// Works on the disk and the network, so that a thread of its own does it; an
/// interrupt ends it soon.
pub(crate) async fn image(config: &Config, command: ImageCommand, json: bool) -> Result<u8> {
    let state = StateDir::open(&config.state_dir)?;
    let store = state.path().join("images");
    let (context, canceller) = Context::default().cancellable();
    let from = config.images.clone();
    let work = tokio::task::spawn_blocking(move || run(&context, &store, &from, &command, json));
    let done = session::unless_interrupted(async {
        work.await
            .map_err(|e| Error::new(ErrorKind::Internal, "the work on images died").source(e))?
    })
    .await;
    canceller.cancel();
    done
}

fn run(
    context: &Context,
    store: &Path,
    from: &ImagesConfig,
    command: &ImageCommand,
    json: bool,
) -> Result<u8> {
    let images = Images::open(store)?.with_caps(Caps::of(from))?;
    match command {
        ImageCommand::Pull(args) => {
            told(&images, &pull(context, &images, from, args, json)?, json)?;
        }
        ImageCommand::Import { source, name } => {
            let source: ImageSource = source.parse()?;
            let mut options = ImportOptions::default();
            options.name.clone_from(name);
            told(&images, &images.import(context, &source, &options)?, json)?;
        }
        ImageCommand::Ls => ls(&images, json)?,
        ImageCommand::Inspect { image } => {
            printed(output::json(&detailed(&images, &images.find(image)?)?))?;
        }
        ImageCommand::Rm { images: names } => {
            for name in names {
                let removed = images.remove(name)?;
                stays(removed.freed.left);
                if json {
                    printed(output::json(&json!({
                        "removed": removed.name,
                        "digest": removed.digest.to_string(),
                        "freed_bytes": removed.freed.bytes,
                        "left": removed.freed.left,
                    })))?;
                }
            }
        }
        ImageCommand::Prune => {
            let pruned = images.prune()?;
            stays(pruned.left);
            let (blobs, layers, bytes) = (pruned.blobs, pruned.layers, pruned.bytes);
            printed(if json {
                output::json(
                    &json!({ "blobs": blobs, "layers": layers, "freed_bytes": bytes, "left": pruned.left }),
                )
            } else {
                output::line(&format!("freed {bytes} B: {blobs} blobs, {layers} layers"))
            })?;
        }
        ImageCommand::Export {
            image,
            file,
            format,
        } => export(context, &images, image, file, *format)?,
    }
    Ok(0)
}

/// Says what could not be removed.
fn stays(pieces: u64) {
    if pieces > 0 {
        output::remark(&format!(
            "pieces of layers that could not be removed: {pieces}; they have files of a range in /etc/subuid and /etc/subgid: see with `stacyvm providers` whether this user has one, or remove `images/tmp` of the state directory as root"
        ));
    }
}

/// What the arguments name is added to what is configured.
fn pull(
    context: &Context,
    images: &Images,
    from: &ImagesConfig,
    args: &PullArgs,
    json: bool,
) -> Result<Image> {
    let reference: Reference = args.image.parse()?;
    let bar = Bar::new(&args.image, json);
    let mut options = PullOptions::of(from).on_progress(bar.observer());
    options.name.clone_from(&args.name);
    options.auth_file.clone_from(&args.auth_file);
    options.ca_files.extend_from_slice(&args.ca_file);
    options.insecure.extend_from_slice(&args.insecure);
    images.pull(context, &reference, &options)
}

/// What was brought in: its name, or its digest where it has none.
fn told(images: &Images, image: &Image, json: bool) -> Result<()> {
    let shown = detailed(images, image)?;
    let left_out = shown["device_node_count"].as_u64().unwrap_or_default();
    if left_out > 0 && !json {
        output::remark(&format!(
            "device nodes that were not made: {left_out} (`stacyvm image inspect` lists them)"
        ));
    }
    printed(if json {
        output::json(&shown)
    } else {
        let name = image.name.clone();
        output::line(&stacyvm::error::escape(
            &name.unwrap_or_else(|| image.digest.to_string()),
        ))
    })
}

fn ls(images: &Images, json: bool) -> Result<()> {
    let all = images.list()?;
    if json {
        let all: Vec<Value> = all
            .iter()
            .map(|summary| match &summary.image {
                Ok(image) => shown(image),
                Err(damage) => json!({
                    "name": summary.name,
                    "digest": summary.digest.to_string(),
                    "damage": damage,
                }),
            })
            .collect();
        return printed(output::json(&all));
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|summary| {
            let (platform, size) = match &summary.image {
                Ok(image) => (
                    image.platform.to_string(),
                    image.compressed_bytes().to_string(),
                ),
                Err(damage) => (damage.clone(), String::new()),
            };
            let name = summary.name.clone().unwrap_or_else(|| "-".to_owned());
            vec![name, summary.digest.to_string(), platform, size]
        })
        .collect();
    printed(output::table(
        &["NAME", "DIGEST", "PLATFORM", "BYTES"],
        &rows,
    ))
}

fn shown(image: &Image) -> Value {
    let config = &image.config;
    let layers: Vec<Value> = image
        .layers
        .iter()
        .map(|layer| {
            json!({
                "digest": layer.digest.to_string(),
                "diff_id": layer.diff_id.to_string(),
                "bytes": layer.size,
            })
        })
        .collect();
    json!({
        "name": image.name,
        "digest": image.digest.to_string(),
        "id": image.config_digest.to_string(),
        "platform": image.platform.to_string(),
        "created": image.created,
        "env_names": config.env.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "entrypoint": config.entrypoint,
        "cmd": config.cmd,
        "user": config.user,
        "workdir": config.workdir,
        "exposed_ports": config.exposed_ports,
        "labels": config.labels,
        "layers": layers,
    })
}

/// The same, with the device nodes that were left out.
fn detailed(images: &Images, image: &Image) -> Result<Value> {
    let (mut nodes, mut count) = (Vec::new(), 0);
    for layer in &image.layers {
        let record = images.layer_record(layer.diff_id)?;
        nodes.extend(record.devices.into_iter().map(|node| node.path));
        count += record.device_count;
    }
    let mut shown = shown(image);
    shown["device_nodes"] = json!(nodes);
    shown["device_node_count"] = json!(count);
    Ok(shown)
}

/// Writes beside the file and gives it its name when it is whole.
fn export(
    context: &Context,
    images: &Images,
    name: &str,
    file: &PathBuf,
    format: ImageFormat,
) -> Result<()> {
    let image = images.find(name)?;
    let format = match format {
        ImageFormat::Oci => ExportFormat::Oci,
        ImageFormat::Docker => ExportFormat::Docker,
    };
    if file == Path::new("-") {
        let mut out = std::io::stdout().lock();
        images.export(context, &image, format, &mut out)?;
        return printed(out.flush());
    }
    let failed = |e: std::io::Error| {
        Error::invalid(
            "file",
            file.display(),
            "a file that can be made there",
            "check its directory and your rights",
        )
        .source(e)
    };
    // A device or a link would be replaced by a file.
    if std::fs::symlink_metadata(file).is_ok_and(|found| !found.is_file()) {
        return Err(Error::invalid(
            "file",
            file.display(),
            "a new or a regular file, or `-`",
            "name another file, or redirect the output of `-`",
        ));
    }
    let mut part = file.clone().into_os_string();
    part.push(format!(".part-{}", std::process::id()));
    let part = PathBuf::from(part);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o666);
    let mut out = options.open(&part).map_err(failed)?;
    let written = images
        .export(context, &image, format, &mut out)
        .and_then(|()| std::fs::rename(&part, file).map_err(failed));
    if written.is_err() {
        // The error of the export is what counts.
        let _ = std::fs::remove_file(&part);
    }
    written
}
