//! A command through the HTTP API beside the same one without it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stacyvm::Engine;
use stacyvm::providers::http::{HttpConfig, HttpProvider};
use stacyvm::server::Server;

use crate::Plan;
use crate::measures::{Outcome, engine, spec, text};
use crate::stats::{Samples, print_bound, print_ratio, print_samples};

/// What the wire may add to the median, in milliseconds.
const BAR: f64 = 0.5;

pub(crate) async fn wire(plan: &Plan) -> Outcome {
    let direct = engine().await?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::bind(direct.clone(), None, any)
        .await
        .map_err(text)?;
    let url = server.url();
    let serving = tokio::spawn(server.run());
    let provider = HttpProvider::open(HttpConfig::new(url))
        .await
        .map_err(text)?;
    let remote = Engine::builder()
        .provider("http", Arc::new(provider))
        .reconcile_every(Duration::ZERO)
        .build()
        .await
        .map_err(text)?;
    let near = direct.create(spec()).await.map_err(text)?;
    let far = remote.create(spec()).await.map_err(text)?;
    let (mut own, mut through) = (Samples::default(), Samples::default());
    for _ in 0..plan.blocks {
        for _ in 0..plan.block * 20 {
            for (sandbox, samples) in [(&near, &mut own), (&far, &mut through)] {
                let start = Instant::now();
                let output = sandbox.exec(["/bin/true"]).output().await.map_err(text)?;
                samples.push(start.elapsed());
                if !output.status.success() {
                    return Err(output.status.to_string());
                }
            }
        }
    }
    print_samples("exec /bin/true", "direct", &own);
    print_samples("exec /bin/true", "http", &through);
    let more = through.p50() - own.p50();
    print_bound("exec through http, p50 more", more, "ms", BAR, false);
    print_ratio(
        "exec through http, p50",
        "direct",
        through.p50(),
        own.p50(),
        None,
    );
    far.kill().await.map_err(text)?;
    near.kill().await.map_err(text)?;
    serving.abort();
    Ok(())
}
