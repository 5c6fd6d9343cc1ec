//! The contract of a `custom` fault whose commands are run by Jobs, in the sandbox: through every case.

#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
mod fault_kit;
#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
#[path = "fault_kit/jobs.rs"]
mod jobs;

use fault_kit::{Table, World};
use jobs::JobCase;

#[tokio::test(start_paused = true)]
async fn a_job_keeps_the_contract() {
    let mut table = Table::of("sandbox");
    macro_rules! case {
        ($title:literal, |$c:ident| $test:expr) => {{
            let mut case = JobCase::new(World::in_sandbox().await).await;
            let $c = &mut case;
            let outcome = Box::pin($test).await;
            case.end().await.end().await;
            table.add(jobs::NAME, $title, outcome);
        }};
    }
    case!("inject, proof, revert, proof", |c| jobs::whole(c));
    case!("inject twice", |c| jobs::inject_twice(c));
    case!("revert twice", |c| jobs::revert_twice(c));
    case!("revert without inject", |c| jobs::revert_without_inject(c));
    case!("target gone", |c| jobs::target_gone(c));
    case!("revert on another machine", |c| jobs::another_machine(c, ""));
    case!("value changed by others", |c| jobs::value_changed(c));
    case!("under another drill's fault", |c| jobs::another_drill(c));
    case!("runner killed in inject", |c| jobs::killed(c, false));
    case!("runner killed in revert", |c| jobs::killed(c, true));
    case!("without effect", |c| jobs::without_effect(c));
    case!("cut short while it runs", |c| jobs::cut_short(c, ""));
    case!("a command that fails, and one that takes too long", |c| jobs::fails(c));
    case!("a Job that cannot start", |c| jobs::cannot_start(c));
    case!("a Job of others", |c| c.foreign_job());
    table.end();
}
