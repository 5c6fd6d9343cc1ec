//! How wide the brackets of measured outages are: thirty real outages of 0.25 s to 20 s, each seen by two probes.
//!
//! `cargo run --release --example outage_width` takes about a minute and prints, for each cadence, the median and the
//! largest width beside `2·every + timeout`; half of the outages refuse, half hang. The last line is the median of all
//! widths, each as a share of that.

#[path = "../tests/metronome/kit.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod kit;

use std::collections::BTreeMap;

use firedrill::clock::Clock;

#[tokio::main(flavor = "current_thread")]
async fn main() -> kit::Result {
    let dir = std::env::temp_dir().join(format!("outage-width-{}", std::process::id()));
    let all = kit::thirty(&Clock::host(), &dir).await;
    std::fs::remove_dir_all(&dir)?;
    let all = all?;
    let mut widths: BTreeMap<_, Vec<i64>> = BTreeMap::new();
    let (mut inside, mut hidden) = (0, 0);
    for m in &all {
        let (Some(lower), Some(upper)) = (m.lower, m.upper) else { continue };
        inside += u32::from(lower <= m.truth.1 && m.truth.0 <= upper);
        hidden += u32::from(lower == 0);
        widths.entry((m.every, m.timeout)).or_default().push(upper - lower);
    }
    println!("{inside} of {} true durations inside their bracket; {hidden} brackets begin at 0", all.len());
    let mut shares = Vec::new();
    println!("{:>8} {:>8} {:>8} {:>12} {:>12} {:>18}", "every", "timeout", "outages", "median", "largest", "2*every+timeout");
    let ms = |us: i64| format!("{:.1} ms", us as f64 / 1000.0);
    for ((every, timeout), mut widths) in widths {
        widths.sort_unstable();
        let bound = i64::try_from(2 * every.as_micros() + timeout.as_micros())?;
        let middle = widths.len() / 2;
        let median = if widths.len().is_multiple_of(2) { i64::midpoint(widths[middle - 1], widths[middle]) } else { widths[middle] };
        let largest = widths[widths.len() - 1];
        shares.extend(widths.iter().map(|width| *width as f64 / bound as f64));
        println!("{every:>8} {timeout:>8} {:>8} {:>12} {:>12} {:>18}", widths.len(), ms(median), ms(largest), ms(bound));
    }
    shares.sort_by(f64::total_cmp);
    println!("median of all, as a share of 2*every+timeout: {:.2}", shares[shares.len() / 2]);
    Ok(())
}
