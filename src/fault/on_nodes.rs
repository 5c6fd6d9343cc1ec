//! What the faults by helpers share on the runner's side: asking the helpers of all places at once, and what they saw.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use serde::de::DeserializeOwned;

use super::{FaultCx, FaultError, Home, PodOnNode, change::until, processes};
use crate::{
    agent::{
        node::NodeReq,
        partition::{PartitionSeen, PartitionsReport},
        signals::{SignalSeen, SignalsReport},
        volume::{VolumeSeen, VolumesReport},
    },
    clock::Stamp,
    journal::RevertResult,
};

/// What a helper saw of one thing that it was asked about.
pub(super) trait Seen: Sized {
    /// A helper's whole answer.
    type Report: DeserializeOwned;

    fn all(report: Self::Report) -> Vec<Self>;
    fn effective(&self) -> bool;
    fn broken(&self) -> Option<&str>;
    fn detail(&self) -> &str;
}

macro_rules! seen {
    ($seen:ty, $report:ty, $all:ident) => {
        impl Seen for $seen {
            type Report = $report;

            fn all(report: $report) -> Vec<Self> {
                report.$all
            }

            fn effective(&self) -> bool {
                self.effective
            }

            fn broken(&self) -> Option<&str> {
                self.broken.as_deref()
            }

            fn detail(&self) -> &str {
                &self.detail
            }
        }
    };
}

seen!(SignalSeen, SignalsReport, signals);
seen!(PartitionSeen, PartitionsReport, partitions);
seen!(VolumeSeen, VolumesReport, volumes);

/// How long a helper may take that writes files, and waits until the disk has them.
pub(super) const WRITE_LIMIT: Duration = Duration::from_secs(45);

/// Asks the helpers of all places at once, each for what is there, for at most `limit`; answers in the order asked.
///
/// # Errors
/// The first failure, after all have answered; also a helper that says less than it was asked: silence would be taken for a proof.
pub(super) async fn ask<T, S: Seen>(
    cx: &FaultCx,
    all: &[T],
    home: impl Fn(&T) -> Home,
    (what, limit): (&str, Duration),
    request: impl Fn(&[&T]) -> NodeReq,
) -> Result<Vec<S>, FaultError> {
    let mut homes: BTreeMap<Home, Vec<usize>> = BTreeMap::new();
    for (n, one) in all.iter().enumerate() {
        homes.entry(home(one)).or_default().push(n);
    }
    let asked = homes.into_iter().map(|(home, which)| {
        let request = request(&which.iter().map(|n| &all[*n]).collect::<Vec<_>>());
        async move {
            let link = cx.helper(&home).await?;
            let seen = S::all(link.call(what, &request, limit).await?);
            if seen.len() != which.len() {
                let why = format!("the helper {home} answered for {} of {}", seen.len(), which.len());
                return Err(FaultError::failed(what, why));
            }
            Ok(which.into_iter().zip(seen))
        }
    });
    let mut seen = BTreeMap::new();
    for answer in join_all(asked).await {
        seen.extend(answer?);
    }
    Ok(seen.into_values().collect())
}

/// What was seen, for people.
pub(super) fn said<S: Seen>(seen: &[S]) -> String {
    seen.iter().map(Seen::detail).collect::<Vec<_>>().join("; ")
}

/// How others have undone it, if they have.
pub(super) fn broken<S: Seen>(seen: &[S]) -> Option<String> {
    let broken: Vec<&str> = seen.iter().filter_map(Seen::broken).collect();
    (!broken.is_empty()).then(|| broken.join("; "))
}

/// Looks until all that is seen is as the fault wants it.
pub(super) async fn effective<S, F>(
    cx: &FaultCx,
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> F,
) -> Result<(Stamp, String), FaultError>
where
    S: Seen,
    F: Future<Output = Result<Vec<S>, FaultError>>,
{
    until(cx, what, limit, || {
        let looking = look();
        async move {
            let seen = looking.await?;
            if seen.iter().all(Seen::effective) {
                return Ok(Ok(said(&seen)));
            }
            let whole = |s: &S| s.broken().map_or_else(|| s.detail().to_owned(), |why| format!("{}: {why}", s.detail()));
            Ok(Err(seen.iter().map(whole).collect::<Vec<_>>().join("; ")))
        }
    })
    .await
}

/// Those whose pod still exists.
pub(super) async fn still_there<T: Clone>(cx: &FaultCx, all: &[T], pod: impl Fn(&T) -> &PodOnNode) -> Result<Vec<T>, FaultError> {
    let mut there = Vec::new();
    for one in all {
        if processes::there(cx, pod(one)).await?.is_some() {
            there.push(one.clone());
        }
    }
    Ok(there)
}

/// What the reverts on several nodes come to together: done if one was done, else nothing to do if there was nothing on one.
pub(super) fn together(results: &[RevertResult]) -> RevertResult {
    let first = [RevertResult::Reverted, RevertResult::Nothing].into_iter().find(|result| results.contains(result));
    first.or(results.last().copied()).unwrap_or(RevertResult::Nothing)
}

/// A name for what the drill makes on nodes, which no other fault has. Names of files and of tables of nftables have at most 255 bytes.
pub(super) fn own_name(cx: &FaultCx, prefix: &str) -> String {
    let drill: String = cx.drill.chars().take(200).collect();
    format!("{prefix}{drill}-{:x}", cx.clock.now().wall_us)
}
