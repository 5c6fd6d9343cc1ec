//! `run --sandbox`, `rehearse` and `verify` as commands: what they print, what they end with, what they leave.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// A shop of one Deployment and one job, small enough for many drills.
const WORLD: &str = r#"
apiVersion: firedrill.dev/v1alpha1
kind: Environment
metadata: {name: small}
spec:
  clusters: {main: {uid: sandbox}}
  firedrill: {image: "localhost/firedrill:1"}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {firedrill.dev/drills: allowed}}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {firedrill.dev/drills: allowed}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {sandbox.firedrill.dev/model: web}}
    spec: {containers: [{name: web, image: "localhost/web:1", ports: [{containerPort: 80}]}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: backup, namespace: shop}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate:
    spec:
      template:
        metadata: {annotations: {sandbox.firedrill.dev/model: backup-job}}
        spec: {restartPolicy: Never, containers: [{name: backup, image: "localhost/backup:1"}]}
"#;

/// The shop's web goes away for some seconds.
const AWAY: &str = r#"
apiVersion: firedrill.dev/v1alpha1
kind: Scenario
metadata: {name: web-away}
spec:
  summary: The web goes away and comes back.
  parameters: {rto: 60s}
  targets: {web: {namespace: shop, deployment: web}}
  limits: {pods: 2, objects: 1, duration: 5m}
  probes:
    site: {http: {url: "http://web.shop/"}, every: 250ms, timeout: 500ms}
  steadyState: {good: [site], for: 2s, timeout: 1m}
  steps:
    - name: no web
      inject: {scale: {target: web, replicas: 0}}
    - hold: 2s
    - revert: no web
    - waitFor: {probe: site, state: good, for: 2s, timeout: 1m}
  objectives:
    - name: back in time
      recoveryTime: {probe: site, after: no web, within: "${rto}", stableFor: 1s}
"#;

/// The backup job is cut, and nobody looks at backups.
const CANNOT_FAIL: &str = r#"
apiVersion: firedrill.dev/v1alpha1
kind: Scenario
metadata: {name: looks-away}
spec:
  summary: The backup job is cut and started again, and what it does is not looked at.
  targets: {job: {namespace: shop, cronJob: backup}}
  limits: {objects: 1, duration: 5m}
  probes:
    runs:
      object: {apiVersion: batch/v1, kind: CronJob, namespace: shop, name: backup, cel: "!(has(object.spec.suspend) && object.spec.suspend)"}
      every: 250ms
      timeout: 1s
  steadyState: {good: [runs], for: 1s, timeout: 30s}
  steps:
    - name: cut
      inject: {cutBackupJob: {target: job, how: suspend}}
    - hold: 1s
    - revert: cut
    - waitFor: {probe: runs, state: good, for: 1s, timeout: 30s}
  objectives:
    - check: {probe: runs, state: good}
"#;

/// A folder with a scenario, a world beside it, and a place for temporary files that must be empty in the end.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(scenario: &str) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        place.write("scenario.yaml", scenario);
        place.write("world.yaml", WORLD);
        std::fs::create_dir(place.path("tmp")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// With no cluster, no environment and no terminal about.
    fn firedrill(&self, args: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firedrill"));
        command.args(args).current_dir(self.dir.path()).env_remove("FIREDRILL_ENVIRONMENT").env("NO_COLOR", "1").env("COLUMNS", "100");
        command.env("KUBECONFIG", self.path("none")).env("TMPDIR", self.path("tmp"));
        let Output { status, stdout, stderr } = command.output().unwrap();
        let left: Vec<_> = std::fs::read_dir(self.path("tmp")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.is_empty(), "left among temporary files by {args:?}: {left:?}");
        Ended { code: status.code(), out: String::from_utf8(stdout).unwrap(), err: String::from_utf8(stderr).unwrap() }
    }

    /// The one drill's evidence.
    fn evidence(&self, out: &str) -> PathBuf {
        let drills: Vec<_> = std::fs::read_dir(self.path(out)).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(drills.len(), 1, "{drills:?}");
        drills[0].clone()
    }
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    #[track_caller]
    fn expect(&self, code: i32, out: &[&str], err: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for word in out {
            assert!(self.out.contains(word), "no `{word}` on standard output: {}", self.out);
        }
        for word in err {
            assert!(self.err.contains(word), "no `{word}` on standard error: {}", self.err);
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Each event's name with its time since the first one.
fn events(evidence: &Path) -> Vec<(i64, String)> {
    let records: Vec<Value> = read(&evidence.join("journal.jsonl")).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = |record: &Value| record["at"]["monoUs"].as_i64().unwrap_or_else(|| panic!("no time: {record}"));
    let name = |record: &Value| match &record["event"] {
        Value::String(name) => name.clone(),
        event => event.as_object().and_then(|event| event.keys().next().cloned()).unwrap_or_default(),
    };
    records.iter().map(|record| (at(record) - at(&records[0]), name(record))).collect()
}

#[test]
fn a_drill_in_the_sandbox_says_so_in_every_form_and_can_never_be_verified() {
    let place = Place::new(AWAY);
    let ended = place.firedrill(&["run", "scenario.yaml", "--sandbox", "--seed", "7", "--out", "evidence"]);
    ended.expect(
        0,
        &["SANDBOX: not evidence of anything", "PASSED, clean: web-away-", "seed 7", "met           back in time"],
        &["shop/web"],
    );
    let evidence = place.evidence("evidence");
    let folder = evidence.to_str().unwrap();
    let stamped = |folder: &Path| {
        for (file, stamp) in [
            ("report.md", "**SANDBOX: not evidence of anything.**"),
            ("junit.xml", "SANDBOX: not evidence"),
            ("junit.xml", "<testsuites name=\"firedrill (SANDBOX)\""),
        ] {
            assert!(read(&folder.join(file)).contains(stamp), "{file}: {}", read(&folder.join(file)));
        }
        let report: Value = serde_json::from_str(&read(&folder.join("report.json"))).unwrap();
        assert_eq!((&report["sandbox"], &report["seed"]), (&json!(true), &json!(7)));
    };
    stamped(&evidence);
    let first: Value = serde_json::from_str(read(&evidence.join("journal.jsonl")).lines().next().unwrap()).unwrap();
    assert_eq!(first["event"]["started"]["sandbox"], json!(true));

    // Made again, or judged again, it is what it was.
    place.firedrill(&["report", folder]).expect(0, &["SANDBOX: not evidence"], &[]);
    stamped(&evidence);
    place.firedrill(&["report", folder, "--set", "rto=1ms", "--out", "again"]).expect(1, &["WHAT IF", "SANDBOX: not evidence"], &[]);
    stamped(&place.path("again"));

    place.firedrill(&["verify", folder]).expect(4, &["SANDBOX", "can never be verified"], &[]);
    place.firedrill(&["verify", "again"]).expect(2, &[], &["journal.jsonl"]);
    // Who takes the word out breaks the journal's chain.
    let journal = evidence.join("journal.jsonl");
    let text = read(&journal);
    assert_eq!(text.matches("\"sandbox\":true").count(), 1);
    std::fs::write(&journal, text.replace("\"sandbox\":true", "\"sandbox\":false")).unwrap();
    place.firedrill(&["verify", folder]).expect(1, &["NOT VERIFIED", "is not whole"], &[]);
    place.firedrill(&["report", folder]).expect(2, &[], &["is not whole"]);
}

#[test]
fn a_slower_pace_takes_longer_and_changes_nothing() {
    let place = Place::new(AWAY);
    let timed = |pace: &str| {
        let began = Instant::now();
        place.firedrill(&["run", "scenario.yaml", "--sandbox", "--seed", "3", "--quiet", "--out", pace, "--pace", pace]).expect(
            0,
            &[],
            &[],
        );
        (began.elapsed(), events(&place.evidence(pace)))
    };
    let (_, fast) = timed("max");
    let (took, slow) = timed("4x");
    assert!(fast.len() > 10, "{fast:?}");
    assert_eq!(fast, slow);
    let drill = Duration::from_micros(fast.last().unwrap().0.unsigned_abs());
    assert!(took >= drill / 4, "{drill:?} at 4x took {took:?}");
    for wrong in ["0x", "10", "slow"] {
        place.firedrill(&["run", "scenario.yaml", "--sandbox", "--pace", wrong]).expect(2, &[], &["10x"]);
    }
    place.firedrill(&["run", "scenario.yaml", "--pace", "10x"]).expect(2, &[], &["--sandbox"]);
}

#[test]
fn worlds_are_found_beside_the_scenario_and_their_mistakes_are_told() {
    let place = Place::new(AWAY);
    std::fs::rename(place.path("world.yaml"), place.path("other.yaml")).unwrap();
    let none = place.firedrill(&["run", "scenario.yaml", "--sandbox"]);
    none.expect(2, &[], &["there is no world", "world.yaml", "--world PATH"]);
    place.firedrill(&["rehearse", "scenario.yaml"]).expect(2, &[], &["there is no world"]);
    place.firedrill(&["rehearse", "scenario.yaml", "--world", "other.yaml"]).expect(0, &["PASSED"], &[]);
    // A folder of manifests is one world, in the order of their names.
    std::fs::create_dir(place.path("world")).unwrap();
    let (first, rest) = WORLD.split_once("---\n").unwrap();
    place.write("world/20-rest.yaml", rest);
    place.firedrill(&["rehearse", "scenario.yaml"]).expect(2, &[], &["nothing of an environment", "--environment FILE"]);
    place.write("world/10-first.yaml", first);
    place.firedrill(&["rehearse", "scenario.yaml"]).expect(0, &["PASSED"], &[]);

    let with = |from: &str, to: &str| {
        assert!(WORLD.contains(from), "{from}");
        place.write("wrong.yaml", &WORLD.replace(from, to));
        [["rehearse", "scenario.yaml", "--world", "wrong.yaml"].as_slice(), &["run", "scenario.yaml", "--sandbox", "--world", "wrong.yaml"]]
            .map(|args| place.firedrill(args))
    };
    for ended in with("selector: {matchLabels: {app: web}}", "selector: {matchLabels: {app: other}}") {
        ended.expect(4, &[], &["wrong.yaml: Deployment web was refused", "selector"]);
    }
    for ended in with("metadata: {name: small}", "metadata: {nam: small}") {
        ended.expect(2, &[], &["wrong.yaml", "unknown key `nam`", ":4:"]);
    }
    for ended in with("kind: CronJob", "kind: Cronjob") {
        ended.expect(4, &[], &["wrong.yaml: Cronjob backup was refused", "there is no kind Cronjob in batch/v1"]);
    }
    // Ten minutes of its time are enough to come up.
    place.write("wrong.yaml", &WORLD.replace("localhost/web:1", "registry.invalid/web:1"));
    let never = place.firedrill(&["rehearse", "scenario.yaml", "--world", "wrong.yaml"]);
    never.expect(4, &[], &["did not come up within 10m", "Pod shop/web-", "registry.invalid/web:1"]);
    // Nothing of all this is a drill.
    assert!(!place.path("evidence").exists() || std::fs::read_dir(place.path("evidence")).unwrap().next().is_none());
}

#[test]
fn a_rehearsal_shows_how_a_drill_would_unfold_and_what_it_would_touch() {
    let place = Place::new(AWAY);
    let once = place.firedrill(&["rehearse", "scenario.yaml", "--seed", "5"]);
    once.expect(
        0,
        &[
            "Rehearsal of scenario.yaml",
            "As it would unfold",
            "fault injected: no web",
            "SANDBOX: not evidence of anything",
            "PASSED, clean",
            "Marks, from the drill's start",
            "injected      no web",
            "recovered     site",
            "What was touched",
            "patch deployments shop/web (2 times)",
            "writes of firedrill's own",
        ],
        &[],
    );
    // Every moment has its place, also what was seen by other clocks.
    let unfolds = once.out.split("As it would unfold").nth(1).unwrap().split("SANDBOX").next().unwrap();
    assert!(unfolds.lines().count() > 10 && !unfolds.contains(" ?  "), "{unfolds}");
    assert_eq!(place.firedrill(&["rehearse", "scenario.yaml", "--seed", "5"]).out, once.out, "the same seed is the same rehearsal");

    let found = place.firedrill(&["rehearse", "scenario.yaml", "--seed", "5", "-o", "json"]);
    found.expect(0, &[], &[]);
    let all: Value = serde_json::from_str(&found.out).unwrap();
    let [one] = all.as_array().unwrap().as_slice() else { panic!("{all}") };
    assert_eq!((&one["file"], &one["seed"], &one["flaky"]), (&json!("scenario.yaml"), &json!(5), &json!(false)));
    assert_eq!((&one["verdict"]["drill"], &one["verdict"]["clean"], &one["trouble"]), (&json!("passed"), &json!(true), &Value::Null));
    assert!(one["touched"].as_array().unwrap().contains(&json!({"write": "patch deployments shop/web", "times": 2})), "{one}");

    // A target that nothing can reach, and one that a mistake keeps from being read.
    place.firedrill(&["rehearse", "scenario.yaml", "--set", "rto=1ms"]).expect(1, &["missed        back in time", "FAILED"], &[]);
    place.write("mistake.yaml", &AWAY.replace("target: web", "target: wbe"));
    place.firedrill(&["rehearse", "scenario.yaml", "mistake.yaml"]).expect(2, &["Rehearsal of scenario.yaml"], &["wbe"]);
    assert!(!place.path("evidence").exists(), "a rehearsal leaves no evidence");
}

#[test]
fn seeds_that_end_otherwise_are_told_and_can_be_looked_at() {
    let place = Place::new(AWAY);
    let same = place.firedrill(&["rehearse", "scenario.yaml", "--seeds", "4"]);
    same.expect(0, &["4 of 4 seeds end as the first: passed, clean"], &[]);
    // So short that it depends on the seed what can be proven.
    let all = place.firedrill(&["rehearse", "scenario.yaml", "--seeds", "4", "--set", "rto=2500ms", "-o", "json"]);
    let all: Value = serde_json::from_str(&all.out).unwrap();
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    for one in all.as_array().unwrap() {
        *ends.entry(one["verdict"]["drill"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(ends.values().sum::<u64>(), 4);
    assert!(ends.len() > 1, "all the same: {ends:?}");
    let told = place.firedrill(&["rehearse", "scenario.yaml", "--seeds", "4", "--set", "rto=2500ms"]);
    let first = all[0]["verdict"]["drill"].as_str().unwrap();
    let like_it = ends[first];
    told.expect(
        1,
        &[&format!("{like_it} of 4 seeds end as the first: {first}"), "look at it: firedrill rehearse scenario.yaml --set "],
        &[],
    );
    // The command that it gives shows what it told.
    let mut lines = told.out.lines().skip_while(|line| !line.trim_start().starts_with("seed "));
    let said = lines.next().unwrap().split_once(": ").unwrap().1.split(',').next().unwrap().to_owned();
    let command = lines.find_map(|line| line.split_once("look at it: firedrill ")).unwrap().1;
    assert!(command.contains(" --set rto=2500ms "), "{command}");
    let again = place.firedrill(&[command.split(' ').collect::<Vec<_>>().as_slice(), &["-o", "json"]].concat());
    let again: Value = serde_json::from_str(&again.out).unwrap();
    assert_eq!(again[0]["verdict"]["drill"], json!(said), "{command}");
    place.firedrill(&["rehearse", "scenario.yaml", "--seeds", "0"]).expect(2, &[], &["0"]);
}

#[test]
fn a_drill_that_cannot_fail_lets_every_mutant_survive() {
    let place = Place::new(CANNOT_FAIL);
    let found = place.firedrill(&["rehearse", "scenario.yaml", "--mutants"]);
    found.expect(
        1,
        &[
            "scenario.yaml: as it is: passed, clean",
            "backup-copies-nothing  SURVIVED (passed)",
            "backup-stale           SURVIVED (passed)",
            "look at it: firedrill rehearse scenario.yaml --seed 1 --mutant backup-stale",
            "does not go through what these are about: failover-never",
            "(the backup job succeeds and makes no backup, as in scenarios/bluetie)",
        ],
        &[],
    );
    assert!(!found.out.contains("caught"), "{}", found.out);
    let json = place.firedrill(&["rehearse", "scenario.yaml", "--mutants", "-o", "json"]);
    json.expect(1, &[], &[]);
    let all: Value = serde_json::from_str(&json.out).unwrap();
    let told: Vec<_> = all.as_array().unwrap().iter().map(|m| (m["mutant"].as_str().unwrap(), m["caught"].as_bool().unwrap())).collect();
    assert_eq!(told, [("backup-copies-nothing", false), ("backup-stale", false)]);
    place.firedrill(&["rehearse", "scenario.yaml", "--mutant", "backup-stale"]).expect(0, &["PASSED"], &[]);
    place.firedrill(&["rehearse", "scenario.yaml", "--mutant", "no-such"]).expect(2, &[], &["backup-stale"]);
    // Of a drill that does not even pass in a healthy world nothing is learnt.
    place.write("never.yaml", &CANNOT_FAIL.replace("check: {probe: runs, state: good}", "check: {probe: runs, state: bad}"));
    place.firedrill(&["rehearse", "never.yaml", "--mutants"]).expect(4, &[], &["without any weakness the drill is failed"]);
}

/// In a sandbox that has ended nothing is left to revert, whatever became of its evidence.
#[test]
fn a_full_disk_in_the_sandbox_is_no_advice_to_revert() {
    let place = Place::new(AWAY);
    std::fs::create_dir(place.path("small")).unwrap();
    let small = place.path("small");
    let small = small.to_str().unwrap();
    let run = |command: &str, args: &[&str]| Command::new(command).args(args).output().unwrap();
    let mut told = false;
    // Where the disk is full depends on what is written before.
    for size in ["24k", "32k", "40k", "48k", "64k"] {
        let mounted = run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "firedrill-test", small]);
        if !mounted.status.success() {
            let why = String::from_utf8_lossy(&mounted.stderr);
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("NOT RUN, it needs root to mount a tmpfs: {why}\n"));
            return;
        }
        let ended = place.firedrill(&["run", "scenario.yaml", "--sandbox", "--seed", "7", "--quiet", "--out", "small/evidence"]);
        assert!(run("umount", &["--lazy", small]).status.success());
        assert!(ended.code != Some(0) && !ended.err.contains("firedrill revert"), "{size}: {ended:#?}");
        told |= ended.err.contains("in a sandbox nothing is left to revert");
    }
    assert!(told, "it never came to that");
}

#[test]
fn a_rehearsal_tells_what_no_api_server_sees_and_what_stays() {
    let with = |fault: &str, target: &str| {
        AWAY.replace("web: {namespace: shop, deployment: web}", target)
            .replace("inject: {scale: {target: web, replicas: 0}}", fault)
            .replace("    - revert: no web\n    - waitFor: {probe: site, state: good, for: 2s, timeout: 1m}\n", "")
            .replace("  steadyState: {good: [site], for: 2s, timeout: 1m}\n", "")
    };
    let place = Place::new(&with("inject: {freeze: {target: web}}", "web: {namespace: shop, pods: app=web}"));
    let frozen = place.firedrill(&["rehearse", "scenario.yaml", "--seed", "5"]);
    let touched = frozen.out.rsplit("What was touched").next().unwrap();
    assert_eq!(touched.matches(": processes stopped").count(), 2, "{}{}", frozen.out, frozen.err);
    assert!(!frozen.out.contains("nothing but firedrill's own") && !frozen.out.contains("Stays"), "{}", frozen.out);
    place.write(
        "scenario.yaml",
        &with("inject: {scale: {target: web, replicas: 0}, undo: none}", "web: {namespace: shop, deployment: web}"),
    );
    let stays = place.firedrill(&["rehearse", "scenario.yaml", "--seed", "5"]);
    for part in ["clean but for what stays", "Stays: declared irreversible", "what `no web` did on Deployment shop/web (`scale`)"] {
        assert!(stays.out.contains(part), "no `{part}` in {}{}", stays.out, stays.err);
    }
    let ran = place.firedrill(&["run", "scenario.yaml", "--sandbox", "--seed", "5", "--quiet"]);
    assert!(ran.err.contains("stays, declared irreversible: what `no web` did on Deployment shop/web (`scale`)"), "{ran:#?}");
    // Leases that could not be renewed in time.
    place.firedrill(&["run", "scenario.yaml", "--sandbox", "--lease", "0s"]).expect(2, &[], &["2s is the least"]);
}

/// What README begins with.
#[test]
fn the_first_command_of_the_readme_passes() {
    let command = include_str!("../README.md").lines().find(|line| line.contains("--sandbox")).unwrap();
    let words: Vec<&str> = command.split('#').next().unwrap().split_whitespace().collect();
    let [cargo, run, dashes, rest @ ..] = words.as_slice() else { panic!("{command}") };
    assert_eq!([*cargo, *run, *dashes], ["cargo", "run", "--"]);
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let rest: Vec<String> =
        rest.iter().map(|word| if word.starts_with("scenarios/") { format!("{here}{word}") } else { (*word).to_owned() }).collect();
    let place = Place::new(AWAY);
    let args: Vec<&str> = rest.iter().map(String::as_str).chain(["--seed", "1"]).collect();
    let ended = place.firedrill(&args);
    ended.expect(0, &["SANDBOX: not evidence", "PASSED, clean: lose-database-primary-"], &[]);
    assert_eq!(ended.out.matches("  met  ").count(), 7, "{}", ended.out);
}
