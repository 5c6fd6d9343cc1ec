use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::io::AsyncReadExt as _;

use super::{
    Commands, Ran, Space,
    io::{Fd, Input, Output},
    run,
};
use crate::{clock::Clock, sandbox::kubelet::ExecEnd};

/// What the containers of these tests can do besides.
struct Model;

impl Commands for Model {
    fn run<'a>(&'a self, ran: Ran<'a>) -> BoxFuture<'a, Option<i32>> {
        Box::pin(async move {
            let argv: Vec<&str> = ran.argv.iter().map(String::as_str).collect();
            match argv.as_slice() {
                ["psql", rest @ ..] => {
                    ran.stdout.extend_from_slice(format!("{}|{}", rest.join(","), String::from_utf8_lossy(&ran.stdin)).as_bytes());
                    0
                }
                ["slow"] => {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    ran.stdout.extend_from_slice(b"slowly\n");
                    0
                }
                ["variable", name] => {
                    ran.stdout.extend_from_slice(ran.vars.get(*name).map_or("none", String::as_str).as_bytes());
                    0
                }
                ["fails", code] => {
                    ran.stderr.extend_from_slice(b"it failed\n");
                    code.parse().ok()?
                }
                ["make", path] => i32::from(ran.files.write(path, b"made\n", false).is_err()),
                _ => return None,
            }
            .into()
        })
    }
}

struct Done {
    end: ExecEnd,
    out: String,
    err: String,
    took: Duration,
}

async fn exec_in(space: &Arc<Space>, argv: &[&str], stdin: &[u8]) -> Done {
    let clock = Clock::virtual_at("test", 1_767_225_600_000_000);
    let variables = BTreeMap::from([("GIVEN".to_owned(), "given".to_owned()), ("REPOSITORY".to_owned(), "repo2".to_owned())]);
    let full = || false;
    let (mut out, stdout) = tokio::io::duplex(1 << 20);
    let (mut err, stderr) = tokio::io::duplex(1 << 20);
    let fds = BTreeMap::from([
        (0, Fd::In(Input::stream(Box::new(std::io::Cursor::new(stdin.to_vec()))))),
        (1, Fd::Out(Output::stream(Box::new(stdout)))),
        (2, Fd::Out(Output::stream(Box::new(stderr)))),
    ]);
    let argv: Vec<String> = argv.iter().map(|a| (*a).to_owned()).collect();
    let place = super::Placed { commands: &Model, space: Arc::clone(space), clock: &clock, full: &full, variables: &variables };
    let begin = tokio::time::Instant::now();
    let (mut said, mut complained) = (String::new(), String::new());
    let (end, _, _) = tokio::join!(
        async {
            let end = run(place, fds, &argv, None).await;
            (end, begin.elapsed())
        },
        out.read_to_string(&mut said),
        err.read_to_string(&mut complained)
    );
    Done { end: end.0, out: said, err: complained, took: end.1 }
}

async fn sh(script: &str) -> Done {
    exec_in(&Arc::new(Space::default()), &["sh", "-c", script], b"").await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Scripts, what they print, and their exit codes.
const SCRIPTS: &[(&str, &str, i32)] = &[
    // Words and quotes.
    ("echo a  'b  c' \"d $GIVEN\" e\\ f", "a b  c d given e f\n", 0),
    ("x='a  b'; echo $x; echo \"$x\"", "a b\na  b\n", 0),
    ("printf '[%s]' '' \"\" $none a\"\"b; echo", "[][][ab]\n", 0),
    ("echo '$GIVEN' \"\\$GIVEN \\\"q\\\" \\n\"", "$GIVEN $GIVEN \"q\" \n\n", 0),
    ("echo a # b", "a\n", 0),
    ("echo a\\\nb; echo a#b", "ab\na#b\n", 0),
    (
        "set -- 'a b' c; for x in \"$@\"; do echo \"<$x>\"; done; for x in $@; do echo $x; done; echo \"$*\" $#",
        "<a b>\n<c>\na\nb\nc\na b c 2\n",
        0,
    ),
    ("set -- ; for x in \"$@\"; do echo never; done; echo $#", "0\n", 0),
    ("set -- 1 2 3 4 5 6 7 8 9 ten; echo $1 ${10} $10; shift 8; echo $1", "1 ten 10\n9\n", 0),
    // Parameters.
    ("echo ${REPOSITORY#repo} ${GIVEN%en} ${none:-w} ${none-$GIVEN} ${GIVEN:+set} [${none:+set}]", "2 giv w given set []\n", 0),
    ("e=; echo [${e-a}] [${e:-a}] [${e:=b}] [$e] [${#GIVEN}]", "[] [a] [b] [b] [5]\n", 0),
    ("x=/a/b.tar.gz; echo ${x##*/} ${x%%.*} ${x%.*} ${x#*/}", "b.tar.gz /a/b /a/b.tar a/b.tar.gz\n", 0),
    ("x='a b'; printf '<%s>' \"${none:-$x}\" ${none:-\"$x\"} ${none:-$x}; echo", "<a b><a b><a><b>\n", 0),
    ("echo \"${none:-a \"b\" 'c'}\"", "a b 'c'\n", 0),
    ("IFS=:; x=a::b; printf '<%s>' $x; echo", "<a><><b>\n", 0),
    ("x=1; x=2 variable x; echo $x", "21\n", 0),
    ("x=1; variable x; export x; variable x; export y=3; variable y", "none13", 0),
    ("variable GIVEN; unset GIVEN; variable GIVEN", "givennone", 0),
    // Substitutions and sums.
    ("x=$(echo a; echo b); echo \"$x\" $(echo c | tr c d) `echo e`", "a\nb d e\n", 0),
    ("echo $(echo \"$(echo \"a  b\")\")", "a b\n", 0),
    ("i=3; echo $((i*2+1)) $(( (i) > 2 ? 10 : 20 )); i=$((i+1)); echo $i", "7 10\n4\n", 0),
    ("x=$(false); echo $?; x=1; echo $?; x=$?; echo $x", "1\n0\n0\n", 0),
    ("false; echo $?", "1\n", 0),
    // Lists and pipelines.
    ("true && echo a || echo b; false && echo c || echo d; ! false && echo e", "a\nd\ne\n", 0),
    ("echo a; false | true; echo $?; ! true; echo $?", "a\n0\n1\n", 0),
    ("set -o pipefail; false | true; echo $?; fails 3 2>/dev/null | fails 4 2>/dev/null | true; echo $?", "1\n4\n", 0),
    ("printf 'a\\nb\\n' | while read -r l; do echo \"<$l>\"; done; echo \"[$l]\"", "<a>\n<b>\n[]\n", 0),
    ("(x=1; echo $x; exit 3); echo $? [$x]", "1\n3 []\n", 0),
    ("{ x=1; echo a; } && echo $x", "a\n1\n", 0),
    ("exit 7; echo never", "", 7),
    // Conditions and loops.
    ("if false; then echo a; elif true; then echo b; else echo c; fi", "b\n", 0),
    ("if false; then echo a; fi; echo $?", "0\n", 0),
    ("i=0; while [ $i -lt 3 ]; do i=$((i+1)); [ $i = 2 ] && continue; echo $i; done", "1\n3\n", 0),
    ("i=0; until [ $i -ge 2 ]; do i=$((i+1)); done; echo $i", "2\n", 0),
    ("for x in a b c; do for y in 1 2; do [ $x$y = b1 ] && break 2; echo $x$y; done; done", "a1\na2\n", 0),
    ("while :; do break; done; echo $?", "0\n", 0),
    ("for x in 1 2; do\n echo $x\ndone | tail -n 1", "2\n", 0),
    (
        "case abc in a?d) echo 1;; (b*|a*) echo 2;; *) echo 3; esac; case 'a*' in 'a*') echo q;; esac; case x in y) ;; esac; echo $?",
        "2\nq\n0\n",
        0,
    ),
    ("x='*'; case a in \"$x\") echo literal;; $x) echo pattern;; esac", "pattern\n", 0),
    // Functions.
    ("f() { echo \"$1\" $#; return 4; }; f a b; echo $? [$1]", "a 2\n4 []\n", 0),
    ("f() { local x=2; y=3; echo $x; }; x=1; f; echo $x $y", "2\n1 3\n", 0),
    ("f() (x=5; exit 2); f; echo $? [$x]", "2 []\n", 0),
    ("f() { [ $1 -eq 0 ] || { echo $1; f $(($1-1)); }; }; f 3", "3\n2\n1\n", 0),
    ("f() { echo out; echo err >&2; } 2>/dev/null; f", "out\n", 0),
    // Redirections.
    ("echo a >/tmp/x; echo b >>/tmp/x; cat /tmp/x; cat </tmp/x | wc -l", "a\nb\n2\n", 0),
    ("echo a >/none/x || echo refused", "refused\n", 0),
    ("cat </none || echo $?; bash -c 'cat </none || echo $?'", "2\n1\n", 0),
    ("cd /tmp; { echo a; echo b >&2; } >o 2>&1; cat /tmp/o", "a\nb\n", 0),
    ("echo a 2>&1 >/dev/null; fails 1 2>&1 | cat", "it failed\n", 0),
    ("cat <<E\n$GIVEN $(echo x) \\$y\n  E\nE\necho after", "given x $y\n  E\nafter\n", 0),
    ("cat <<'E'\n$GIVEN\nE\ncat <<-E\n\t\ttabs\n\tE\n", "$GIVEN\ntabs\n", 0),
    ("cat <<A; cat <<B\na\nA\nb\nB\n", "a\nb\n", 0),
    ("x=$(cat <<E\nin\nE\n); echo $x", "in\n", 0),
    ("exec >/tmp/all; echo a; exec >&-; echo b; true", "", 0),
    ("exec 3>/tmp/three; echo x >&3; cat /tmp/three", "x\n", 0),
    ("read a b <<E\n1 2 3\nE\necho \"$b\" $a", "2 3 1\n", 0),
    ("printf 'no end' | { read -r x; echo $? $x; }", "1 no end\n", 0),
    ("IFS=, read -r a b <<E\n1,2\nE\necho $b$a", "21\n", 0),
    // Options.
    ("set -e; false; echo never", "", 1),
    ("set -e; if false; then :; fi; false || true; ! true; false && true; echo on", "on\n", 0),
    ("set -e; (exit 3); echo never", "", 3),
    ("set -e; f() { false; echo in; }; f && echo yes; f; echo never", "in\nyes\n", 1),
    ("set -e; x=$(false); echo never", "", 1),
    ("set -e; { false && true; }; echo on", "on\n", 0),
    ("set -e; while false; do :; done; for x in; do :; done; echo on", "on\n", 0),
    ("set -u; echo ${none-ok}; echo $none; echo never", "ok\n", 2),
    ("echo ${none:?is missing}; echo never", "", 2),
    ("set +e; set -f; echo *; set +f; echo /tmp/none*", "*\n/tmp/none*\n", 0),
    ("set -eu; [ -z \"${found:-}\" ] || { echo not; exit 1; }; echo empty", "empty\n", 0),
    // Builtins.
    ("printf '%s-%03d|%-4s|%4s|%x%%\\n' a 7 b c 255 d 8 e f 16", "a-007|b   |   c|ff%\nd-008|e   |   f|10%\n", 0),
    ("printf '%s\\n' a b; printf 'x%b' '\\ty\\n'; printf '%5.2f\\n' 3.14159", "a\nb\nx\ty\n 3.14\n", 0),
    ("printf '%d\\n' x 2>/dev/null; echo $?", "0\n1\n", 0),
    ("echo -n a; echo 'b\\tc'; bash -c \"echo 'b\\tc'; echo -e 'd\\te'\"", "ab\tc\nb\\tc\nd\te\n", 0),
    ("eval 'x=1; echo $x'; eval \"echo \\$x\"", "1\n1\n", 0),
    ("cd /tmp && pwd; cd /none 2>/dev/null || echo $?", "/tmp\n2\n", 0),
    ("trap 'echo bye $?' EXIT; echo hi; exit 3", "hi\nbye 3\n", 3),
    ("sh -c 'echo $0 $1; exit 4' name arg; echo $?; bash -euo pipefail -c 'false | true; echo never'; echo $?", "name arg\n4\n1\n", 0),
    ("x=1; sh -c 'echo [$x]'; x=1 sh -c 'echo [$x]'", "[]\n[1]\n", 0),
    ("echo 'echo script $1' >/tmp/s; bash /tmp/s a; . /tmp/s b; sh /none 2>/dev/null; echo $?", "script a\nscript\n127\n", 0),
    ("exec sh -c 'echo $1' sh a; echo never", "a\n", 0),
    ("command -v echo && command echo x; command cat /dev/null", "echo\nx\n", 0),
    ("sleep 0.2; sleep 1m; echo slept", "slept\n", 0),
    ("sleep x 2>/dev/null; echo $?; [ a -eq 1 ] 2>/dev/null; echo $?; [ a 2>/dev/null; echo $?", "1\n2\n2\n", 0),
    ("(sleep 2; echo late) & echo soon; wait; echo $?", "soon\nlate\n0\n", 0),
    ("(exit 5) & wait $!; echo $?; wait 9999; echo $?", "5\n127\n", 0),
    ("sleep 100 & kill $!; wait $!; echo $?; kill -0 $! 2>/dev/null || echo gone", "143\ngone\n", 0),
    ("trap 'echo caught; exit 4' TERM; kill $$; echo never", "caught\n", 4),
    ("trap '' TERM; kill $$; echo ignored; trap - TERM; kill $$; echo never", "ignored\n", 143),
    ("trap 'exit 0' TERM INT; (sleep 3; kill $$) & while :; do sleep 5 & wait $!; done", "", 0),
    // Commands of the model, and tools.
    ("echo 'select 1' | psql -At; psql a b", "-At|select 1\na,b|", 0),
    ("/usr/bin/psql x; fails 3 || echo $?", "x|3\n", 0),
    ("make /tmp/new && cat /tmp/new", "made\n", 0),
    (
        "printf 'b 2\\na 10\\nc 1\\n' | sort; printf 'b 2\\na 10\\n' | sort -k2 -n; printf '1\\n1\\n' | sort -u",
        "a 10\nb 2\nc 1\nb 2\na 10\n1\n",
        0,
    ),
    ("printf 'a,b,c\\nd\\n' | cut -d, -f1,3; echo abcdef | cut -c2-4; printf 'x\\ty\\n' | cut -f 2", "a,c\nd\nbcd\ny\n", 0),
    (
        "printf '1\\n2\\n3\\n4\\n' >/tmp/n; head -n 2 /tmp/n; tail -n 1 /tmp/n; tail -n +3 /tmp/n; head -1 /tmp/n; wc -l </tmp/n",
        "1\n2\n4\n3\n4\n1\n4\n",
        0,
    ),
    ("printf 'no end' | wc -l; printf 'a b\\nc\\n' | wc -w; printf abc | wc -c", "0\n3\n3\n", 0),
    (
        "echo abc | tr a-c A-C; echo 'a  b' | tr -s ' '; echo abc | tr -d b; echo a1b2 | tr -cd '0-9'; echo ab | tr '[:lower:]' '[:upper:]'",
        "ABC\na b\nac\n12AB\n",
        0,
    ),
    (
        "printf 'ab\\nxx\\nac\\n' | grep a; echo ab | grep -q b && echo yes; echo ab | grep -q c || echo no; printf 'a\\na\\nb\\n' | grep -c a; printf 'a\\nb\\n' | grep -v a",
        "ab\nac\nyes\nno\n2\nb\n",
        0,
    ),
    ("echo '{\"Role\": \"Leader\"},{\"Role\": \"Leader\"}' | grep -o '\"Role\": \"Leader\"' | wc -l", "2\n", 0),
    (
        "printf 'a1\\nbb\\n' | grep -E '^[a-z][0-9]+$|x'; printf 'a+\\n' | grep 'a+'; printf 'aa\\n' | grep 'a\\+'; printf 'a.c\\nabc\\n' | grep -F a.c; echo '[x]' | grep '[[]x'",
        "a1\na+\naa\na.c\n[x]\n",
        0,
    ),
    (
        "printf 'lost+found\\n' | grep -v '^lost+found$' || echo none; echo x >/tmp/f; grep -n x /tmp/f /none 2>/dev/null; echo $?",
        "none\n/tmp/f:1:x\n2\n",
        0,
    ),
    (
        "mkdir -p /tmp/d/e; touch /tmp/d/.h /tmp/d/e/f; ls /tmp/d; ls -A /tmp/d; find /tmp/d -type f; find /tmp/d -name 'e*'",
        "e\n.h\ne\n/tmp/d/.h\n/tmp/d/e/f\n/tmp/d/e\n",
        0,
    ),
    (
        "mkdir /tmp/a; mkdir /tmp/a 2>/dev/null || echo exists; cd /tmp; touch a/1 a/2; echo a/* [!b]/1; rm -r a; ls a 2>/dev/null; echo $?; rm a 2>/dev/null || echo gone; rm -f a && echo fine",
        "exists\na/1 a/2 a/1\n2\ngone\nfine\n",
        0,
    ),
    (
        "echo x >/tmp/1; cp /tmp/1 /tmp/2; mv /tmp/2 /tmp/3; cat /tmp/3; [ -e /tmp/2 ] || echo moved; [ -s /tmp/3 ] && [ -f /tmp/3 ] && [ -d /tmp ] && echo all",
        "x\nmoved\nall\n",
        0,
    ),
    ("df -h / | tail -n 1; df -P /none 2>/dev/null || echo $?", "overlay         100G     0  100G   0% /\n1\n", 0),
    ("date -u +%Y-%m-%dT%H:%M:%SZ; sleep 90; date -u +%s", "2026-01-01T00:00:00Z\n1767225690\n", 0),
    (
        "basename /a/b.conf .conf; dirname /a/b; seq 2 4 | tail -n 1; env X=1 variable X; timeout 3 slow; echo $?; timeout 9 slow",
        "b\n/a\n4\n1124\nslowly\n",
        0,
    ),
    ("echo a | tee /tmp/t; cat /tmp/t; x=$(mktemp); [ -f $x ] && echo made", "a\na\nmade\n", 0),
];

#[test]
fn scripts_do_what_they_do_in_a_real_shell() {
    runtime().block_on(async {
        let mut wrong = Vec::new();
        for (script, out, code) in SCRIPTS {
            let done = sh(script).await;
            if (done.out.as_str(), &done.end) != (*out, &ExecEnd::Exit(*code)) {
                wrong.push(format!("{script}\n  wanted {out:?} {code}\n  got {:?} {:?} {}", done.out, done.end, done.err));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

/// The table above is not ours to make up: where there is a `sh` and the tools, they say the same. Those that name the model's commands
/// or files of a fresh container are left out.
#[test]
fn a_real_shell_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let tmp = dir.path().to_str().unwrap();
    let ours = [
        "variable",
        "psql",
        "fails",
        "make ",
        "slow",
        "df ",
        "date ",
        "sleep 1m",
        "sleep 90",
        "local ",
        "exec >&-",
        "wait 9999",
        "sh /none",
        "%5.2f",
    ];
    let (mut compared, mut wrong) = (0, Vec::new());
    for (script, out, code) in SCRIPTS.iter().filter(|(s, ..)| !ours.iter().any(|o| s.contains(o))) {
        let place = script.replace("/tmp", tmp);
        std::fs::create_dir_all(tmp).unwrap();
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &place]).env("GIVEN", "given").env("REPOSITORY", "repo2").env("LC_ALL", "C.UTF-8").current_dir(tmp);
        let ran = command.stdin(std::process::Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).replace(tmp, "/tmp");
        let said: Vec<&str> = said.split_inclusive('\n').map(|l| l.trim_start_matches(' ')).collect();
        let expected: Vec<&str> = out.split_inclusive('\n').map(|l| l.trim_start_matches(' ')).collect();
        // A signal shows as a shell would show it.
        let ended = ran.status.code().or_else(|| std::os::unix::process::ExitStatusExt::signal(&ran.status).map(|n| 128 + n));
        if (&said, ended) != (&expected, Some(*code)) {
            let stderr = String::from_utf8_lossy(&ran.stderr);
            wrong.push(format!("{script}\n  in the table {expected:?} {code}\n  really {said:?} {ended:?} {stderr}"));
        }
        std::fs::remove_dir_all(tmp).unwrap();
        compared += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 70, "{compared}");
}

#[test]
fn what_cannot_be_rehearsed_ends_all_and_is_never_success() {
    runtime().block_on(async {
        for script in [
            "python3 -c x",
            "python3 -c x || true; echo after",
            "x=$(python3 x) || true; echo after",
            "(python3 x) || true; echo after",
            "python3 x | true; echo after",
            "if python3; then :; fi; echo after",
            "! python3; echo after",
            "python3 & wait; echo after",
            "python3 & sleep 10; echo after",
            "trap 'python3' EXIT; true",
            "f() { python3; }; f || true; echo after",
            "sh -c 'python3' || true; echo after",
            "eval python3 || true; echo after",
            "timeout 5 python3 || true; echo after",
            "psql --help >/dev/null; unknown 2>/dev/null || echo after",
            "fails x || echo after",
            "grep -P x /dev/null || echo after",
            "kill 1 || echo after",
            "[[ a = a ]] && echo after",
            "command -v python3 || echo after",
            "ls -l || echo after",
            "sed s/a/b/ || echo after",
        ] {
            let done = sh(script).await;
            assert!(matches!(&done.end, ExecEnd::Failed(why) if why.starts_with("not rehearsable: ")), "{script}: {:?}", done.end);
            assert!(!done.out.contains("after"), "{script}");
            assert!(done.err.contains("not rehearsable: ") || script.contains("2>/dev/null"), "{script}: {}", done.err);
        }
        let plain = exec_in(&Arc::new(Space::default()), &["patronictl", "list"], b"").await;
        assert_eq!(plain.end, ExecEnd::Failed("not rehearsable: there is no answer to [\"patronictl\", \"list\"]".to_owned()));
    });
}

#[test]
fn what_would_never_end_is_ended_with_a_reason() {
    runtime().block_on(async {
        for (script, why) in [
            ("while :; do :; done", "commands without a sleep: an endless loop?"),
            ("until false; do x=$((x+1)); done", "commands without a sleep: an endless loop?"),
            ("f() { f; }; f", "commands nested more than"),
            ("f() { echo $(f); }; f", "commands nested more than"),
            ("f() ( f ); f", "commands nested more than"),
            ("f() { f | cat; }; f", "commands nested more than"),
            ("f() { sh -c 'true'; eval f; }; f", "commands nested more than"),
            ("x=0123456789; while :; do x=$x$x; done", "MiB"),
            ("while :; do printf '%01000d' 1; done | cat", "MiB"),
            ("for x in 1 2 3; do sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & done; sleep 1", "in the background"),
        ] {
            let done = sh(script).await;
            assert!(matches!(&done.end, ExecEnd::Failed(said) if said.contains(why)), "{script}: {:?}", done.end);
        }
        // One that sleeps may go on for as long as it likes.
        let done = sh("i=0; while [ $i -lt 3000 ]; do sleep 60; i=$((i+1)); done; echo $i").await;
        assert_eq!((done.out.as_str(), done.took), ("3000\n", Duration::from_secs(180_000)));
    });
}

#[test]
fn input_comes_line_by_line_and_the_rest_is_left() {
    runtime().block_on(async {
        let done =
            exec_in(&Arc::new(Space::default()), &["sh", "-c", "read -r a; read -r b; echo $b $a; cat"], b"one\ntwo\nthree\nfour").await;
        assert_eq!((done.out.as_str(), done.end), ("two one\nthree\nfour", ExecEnd::Exit(0)));
        let done = exec_in(&Arc::new(Space::default()), &["cat"], b"all\nof it").await;
        assert_eq!((done.out.as_str(), done.end), ("all\nof it", ExecEnd::Exit(0)));
        let done = exec_in(&Arc::new(Space::default()), &["echo", "$GIVEN", "*"], b"").await;
        assert_eq!((done.out.as_str(), done.end), ("$GIVEN *\n", ExecEnd::Exit(0)));
    });
}

#[test]
fn files_are_the_containers_and_output_comes_as_it_is_written() {
    runtime().block_on(async {
        let space = Arc::new(Space::default());
        exec_in(&space, &["sh", "-c", "echo kept >/tmp/x"], b"").await;
        assert_eq!(exec_in(&space, &["cat", "/tmp/x"], b"").await.out, "kept\n");
        assert_ne!(sh("cat /tmp/x").await.end, ExecEnd::Exit(0));
    });
}
