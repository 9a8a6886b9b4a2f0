//! Samples, and the ratios of their medians.

use std::time::Duration;

/// The times of one subject, in milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e3);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value below which this share of the samples lies.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len() - 1;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index within the samples"
        )]
        let index = (share * last as f64).round() as usize;
        sorted[index.min(last)]
    }

    pub(crate) fn p50(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// One bar: our figure against a peer's, and the most that was promised.
pub(crate) fn print_ratio(measure: &str, peer: &str, ours: f64, theirs: f64, bar: Option<f64>) {
    let ratio = ours / theirs;
    let verdict = match bar {
        None => String::new(),
        Some(bar) if ratio <= bar => format!("  bar {bar}: met"),
        Some(bar) => format!("  bar {bar}: MISSED"),
    };
    println!("ratio  {measure:<34} / {peer:<22} {ratio:>7.3}{verdict}");
}

/// A figure with a bound of its own.
pub(crate) fn print_bound(measure: &str, value: f64, unit: &str, bar: f64, at_least: bool) {
    let met = if at_least { value >= bar } else { value <= bar };
    let (word, sign) = (
        if met { "met" } else { "MISSED" },
        if at_least { ">=" } else { "<=" },
    );
    println!("bound  {measure:<34} {value:>10.3} {unit:<5}  bar {sign} {bar}: {word}");
}

pub(crate) fn print_samples(measure: &str, subject: &str, samples: &Samples) {
    println!(
        "times  {measure:<34}   {subject:<22} p50 {:>8.2} p95 {:>8.2} p99 {:>8.2} ms  n {}",
        samples.p50(),
        samples.quantile(0.95),
        samples.quantile(0.99),
        samples.len()
    );
}
