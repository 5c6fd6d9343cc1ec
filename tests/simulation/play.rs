//! Playing seeds, and telling what came of them.

use std::collections::BTreeMap;

use firedrill::verdict::{self, Outcome};

use crate::{
    check, draw,
    history::{End, History, RUNNER, called, done},
    run,
    shipped::{self, Shipped},
};

/// Unoptimised builds of deep futures need much of it.
pub(crate) const STACK: usize = 64 << 20;

/// What came of a seed.
#[derive(Debug, Default)]
pub(crate) struct Played {
    /// Broken promises.
    pub(crate) wrong: Vec<String>,
    /// What sort of drill it was.
    pub(crate) sorts: Vec<&'static str>,
    /// How many requests its API server had, of the cluster's own components and of clients.
    pub(crate) requests: [u64; 2],
}

/// Plays a seed, maybe once more to see that it comes to the same.
pub(crate) fn one(seed: u64, twice: bool) -> Played {
    if let Some(shipped) = Shipped::of(seed) {
        return Played { wrong: shipped.play(), sorts: vec!["was shipped"], ..Played::default() };
    }
    let script = draw::script(seed);
    let history = match run::simulate(&script) {
        Ok(history) => history,
        Err(why) => return Played { wrong: vec![why], ..Played::default() },
    };
    let wrong = check::all(&history).iter().map(ToString::to_string).collect();
    let own = history.audit.iter().filter(|entry| entry.user.starts_with("system:")).count() as u64;
    let mut played = Played { wrong, sorts: sorts(&history), requests: [own, history.audit.len() as u64 - own] };
    if twice {
        match run::simulate(&script) {
            Ok(again) => played.wrong.extend(check::same(&history, &again).iter().map(ToString::to_string)),
            Err(why) => played.wrong.push(format!("the second time: {why}")),
        }
    }
    played
}

fn sorts(history: &History) -> Vec<&'static str> {
    let mut sorts = Vec::new();
    let mut is = |sort, so: bool| {
        if so {
            sorts.push(sort);
        }
    };
    is("was refused", history.refused.is_some());
    is("broke something", history.written().any(|(_, entry, _)| entry.namespace == "shop"));
    is("ended clean", history.runners.iter().any(|r| matches!(r.end, End::Over { clean: true, .. })));
    is("ended not clean", history.runners.last().is_some_and(|r| matches!(r.end, End::Over { clean: false, .. })));
    is("stopped processes", history.signals.iter().any(|sent| sent.signal == "STOP"));
    is("killed processes", history.signals.iter().any(|sent| sent.signal == "KILL"));
    is("died", history.runners.iter().any(|r| r.end == End::Died));
    let took_over = |r: &crate::history::Runner| r.journal.contains("\"resumed\":") && matches!(r.end, End::Over { .. });
    is("was taken over", history.runners.iter().skip(1).any(took_over));
    let verdicts: Vec<_> = history.runners.iter().map(|r| verdict::judge(&r.records())).collect();
    let any = |outcome| verdicts.iter().flat_map(|v| &v.objectives).any(|o| o.kind != "check" && o.outcome == outcome);
    is("met", any(Outcome::Met));
    is("missed", any(Outcome::Missed));
    sorts
}

/// Plays a seed and prints all of it.
pub(crate) fn tell(seed: u64) {
    if let Some(shipped) = Shipped::of(seed) {
        return shipped::tell(&shipped);
    }
    let script = draw::script(seed);
    println!("{script:#?}");
    let history = run::simulate(&script).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    if let Some(why) = &history.refused {
        println!("no drill: {why}");
    }
    for (number, entry) in history.audit.iter().enumerate() {
        if (entry.user.starts_with(RUNNER) && entry.is_write()) || (done(entry) && entry.namespace == "shop") {
            println!("{} {} {}", entry.code, entry.trouble, called(number, entry));
        }
    }
    let mut asked: BTreeMap<String, u64> = BTreeMap::new();
    for entry in &history.audit {
        let who = entry.user.rsplit(':').next().unwrap_or_default().trim_end_matches(|c: char| c.is_ascii_digit());
        let sub = if entry.subresource.is_empty() { String::new() } else { format!("/{}", entry.subresource) };
        *asked.entry(format!("{who} {} {}{sub}", entry.verb, entry.resource)).or_default() += 1;
    }
    println!("requests: {} {asked:#?}", history.audit.len());
    for runner in &history.runners {
        println!("{} of {}: {:?}", runner.user, runner.drill, runner.end);
        runner.journal.lines().for_each(|line| println!("  {}", line.chars().take(600).collect::<String>()));
        for objective in verdict::judge(&runner.records()).objectives {
            println!("  {}: {} {:?} {}", objective.name, objective.outcome, objective.measured, objective.reason);
        }
    }
    let wrong = check::all(&history);
    wrong.iter().for_each(|why| println!("WRONG: {why}"));
    assert!(wrong.is_empty(), "seed {seed}, commit {}, breaks a promise", commit());
}

/// Runs `work` on a thread with room enough.
pub(crate) fn on_a_large_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(work).expect("a thread");
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The commit that is tested, as far as git says.
pub(crate) fn commit() -> String {
    let told = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output();
    told.ok().and_then(|out| String::from_utf8(out.stdout).ok()).map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}
