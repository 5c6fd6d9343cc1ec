use super::{
    super::label::{Labels, Matcher},
    config::{self, Config},
    dispatch::{Alert, Dispatcher, Job, Silence},
};

const SECOND: i64 = 1_000_000;

/// As the testbed's, with a second route, an inhibition and slower groups.
const FILE: &str = r#"
route:
  receiver: webhook
  group_by: [alertname]
  group_wait: 2s
  group_interval: 5s
  repeat_interval: 1h
  routes:
  - matchers: [alertname="Heartbeat"]
    group_wait: 0s
    group_interval: 1s
    repeat_interval: 4s
  - matchers: ['severity=~"page|urgent"']
    receiver: pager
    continue: true
  - {match: {team: db}, receiver: db}
receivers:
- name: webhook
  webhook_configs: [{url: "http://r/alerts"}]
- name: pager
  webhook_configs: [{url: "http://p/alerts", send_resolved: false}]
- name: db
inhibit_rules:
- source_matchers: [alertname="ZoneDown"]
  target_matchers: [severity="page"]
  equal: [zone]
"#;

fn config() -> Config {
    config::read(FILE).unwrap()
}

fn labels(text: &str) -> Labels {
    text.split(',').map(|pair| pair.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// A dispatcher whose notifications are taken at once, and what was told: second, receiver, and how many fire and have ended.
struct Bench {
    dispatcher: Dispatcher,
    now: i64,
    told: Vec<(i64, String, usize, usize)>,
    refuses: bool,
}

impl Bench {
    fn new() -> Self {
        Self { dispatcher: Dispatcher::new(config()), now: 0, told: Vec::new(), refuses: false }
    }

    fn put(&mut self, text: &str, starts: i64, ends: i64) {
        let (annotations, source) = (Labels::new(), String::new());
        let (starts_us, ends_us) = (starts * SECOND, ends * SECOND);
        let alert = Alert { labels: labels(text), annotations, starts_us, ends_us, updated_us: self.now * SECOND, source };
        self.dispatcher.put(alert, self.now * SECOND);
    }

    /// Goes on to a second, with all that is due until then.
    fn until(&mut self, second: i64) {
        while let Some(at) = self.dispatcher.next_us().filter(|at| *at <= second * SECOND) {
            let at = at.max(self.now * SECOND);
            for job in self.dispatcher.due(at) {
                self.note(&job, at);
                self.dispatcher.done(job, !self.refuses, at);
            }
        }
        self.now = second;
    }

    fn note(&mut self, job: &Job, at: i64) {
        let ended = job.alerts.iter().filter(|(_, ended)| *ended).count();
        self.told.push((at / SECOND, job.receiver.clone(), job.alerts.len() - ended, ended));
    }

    fn told(&mut self) -> Vec<(i64, String, usize, usize)> {
        std::mem::take(&mut self.told)
    }
}

fn to(receiver: &str, at: i64, firing: usize, ended: usize) -> (i64, String, usize, usize) {
    (at, receiver.to_owned(), firing, ended)
}

#[test]
fn a_group_waits_then_tells_and_tells_again_what_changes() {
    let mut bench = Bench::new();
    bench.put("alertname=Lag,pod=a", 0, 100);
    bench.until(1);
    bench.put("alertname=Lag,pod=b", 1, 100);
    bench.until(4);
    assert_eq!(bench.told(), [to("webhook", 2, 2, 0)], "both in one, after group_wait");
    bench.put("alertname=Lag,pod=c", 4, 100);
    bench.until(20);
    assert_eq!(bench.told(), [to("webhook", 7, 3, 0)], "at the next group_interval, and then no more");
    bench.put("alertname=Lag,pod=a", 0, 20);
    bench.until(30);
    assert_eq!(bench.told(), [to("webhook", 22, 2, 1)], "one has ended");
    bench.put("alertname=Lag,pod=b", 1, 30);
    bench.put("alertname=Lag,pod=c", 4, 30);
    bench.until(60);
    assert_eq!(bench.told(), [to("webhook", 32, 0, 2)]);
    assert_eq!(bench.dispatcher.next_us(), None, "the group is gone");
}

#[test]
fn what_goes_on_is_repeated_and_what_is_not_renewed_ends() {
    let mut bench = Bench::new();
    for second in 0..20 {
        bench.put("alertname=Heartbeat", 0, second + 20);
        bench.until(second);
    }
    let at: Vec<i64> = bench.told().iter().map(|(at, ..)| *at).collect();
    assert_eq!(at, [0, 5, 10, 15], "more than the repeat interval of 4 s, in steps of 1 s");
    bench.until(60);
    let told = bench.told();
    let last = told.last().unwrap();
    assert_eq!((last.0, last.2, last.3), (39, 0, 1), "nobody renewed it: {told:?}");
}

#[test]
fn an_alert_that_began_long_ago_does_not_wait() {
    let mut bench = Bench::new();
    bench.now = 100;
    bench.put("alertname=Lag", 50, 200);
    bench.until(101);
    assert_eq!(bench.told(), [to("webhook", 100, 1, 0)]);
}

#[test]
fn routes_are_taken_from_above_and_go_on_where_they_say_so() {
    let config = config();
    let of = |text: &str| config.route.of(&labels(text)).iter().map(|route| route.options.receiver.clone()).collect::<Vec<_>>();
    assert_eq!(of("alertname=Heartbeat,severity=page"), ["webhook"]);
    assert_eq!(of("alertname=A,severity=page"), ["pager"]);
    assert_eq!(of("alertname=A,severity=urgent,team=db"), ["pager", "db"]);
    assert_eq!(of("alertname=A,severity=ticket"), ["webhook"]);
    for wrong in [
        "receivers: []",
        "route: {receiver: a}\nreceivers: []",
        "route: {receiver: a, matchers: [x=y]}\nreceivers: [{name: a}]",
        "route: {receiver: a, group_wait: soon}\nreceivers: [{name: a}]",
        "route: {receiver: a, routes: [{matchers: [x]}]}\nreceivers: [{name: a}]",
        "route: {receiver: a}\nreceivers: [{name: a, email_configs: []}]",
    ] {
        assert!(config::read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_place_that_wants_no_ends_hears_of_none() {
    let mut bench = Bench::new();
    bench.put("alertname=A,severity=page", 0, 4);
    bench.until(20);
    assert_eq!(bench.told(), [to("pager", 2, 1, 0)]);
    bench.now = 30;
    bench.put("alertname=A,severity=page", 30, 90);
    bench.until(40);
    assert_eq!(bench.told(), [to("pager", 32, 1, 0)], "it is a new one");
}

#[test]
fn what_was_not_taken_is_told_again_at_the_next_interval() {
    let mut bench = Bench::new();
    bench.refuses = true;
    bench.put("alertname=A", 0, 100);
    bench.until(8);
    assert_eq!(bench.told().len(), 2);
    bench.refuses = false;
    bench.until(30);
    assert_eq!(bench.told(), [to("webhook", 12, 1, 0)]);
}

#[test]
fn silenced_alerts_are_not_told_until_the_silence_ends() {
    let mut bench = Bench::new();
    let matchers = vec![Matcher::parse("pod=~\"a.*\"").unwrap()];
    let (author, comment) = (String::new(), String::new());
    let silence = Silence { id: String::new(), matchers, starts_us: 0, ends_us: 20 * SECOND, updated_us: 0, author, comment };
    let id = bench.dispatcher.silence(silence.clone(), 7).unwrap();
    bench.put("alertname=A,pod=a1", 0, 100);
    bench.put("alertname=B,pod=b", 0, 100);
    bench.until(19);
    assert_eq!(bench.told(), [to("webhook", 2, 1, 0)], "the other one only");
    let (_, alert) = bench.dispatcher.current(19 * SECOND).find(|(_, alert)| alert.labels["pod"] == "a1").unwrap();
    assert_eq!(bench.dispatcher.muted(alert, 19 * SECOND), Some((vec![id.clone()], vec![])));
    bench.until(30);
    assert_eq!(bench.told(), [to("webhook", 22, 1, 0)]);
    assert_eq!(bench.dispatcher.silences[&id].state(30 * SECOND), "expired");
    assert!(bench.dispatcher.silence(Silence { id: "other".to_owned(), ..silence }, 7).is_err());
}

#[test]
fn an_alert_inhibits_those_of_its_zone_while_it_fires() {
    let mut bench = Bench::new();
    bench.put("alertname=ZoneDown,severity=page,zone=1", 0, 20);
    bench.put("alertname=A,severity=page,zone=1", 0, 100);
    bench.put("alertname=A,severity=page,zone=2", 0, 100);
    bench.until(19);
    // It is on the side of those that are kept back, too, and does not keep itself back.
    assert_eq!(bench.told(), [to("pager", 2, 1, 0), to("pager", 2, 1, 0)]);
    bench.until(30);
    assert_eq!(bench.told(), [to("pager", 22, 2, 0)], "the zone is back");
}
