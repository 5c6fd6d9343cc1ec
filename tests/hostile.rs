//! Hostile input ends in an error: no panic, no hang, no overflow of the stack (tests have a small one), no message as
//! long as the file.

use std::{path::Path, time::Instant};

use firedrill::scenario::{Severity, check_file, check_text, diag::render, load_environment, load_scenario};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// Far more than any of them takes in a debug build on a busy machine; a hang is endless, a quadratic loop is minutes.
const LIMIT_S: f64 = 20.0;

const HEAD: &str = "apiVersion: firedrill.dev/v1alpha1\nkind: Scenario\nmetadata: {name: x}\n";

fn refused(what: &str, text: &str) -> String {
    let started = Instant::now();
    let checked = check_text(what, text, &[]);
    let shown = render(&checked.diagnostics, false);
    assert!(started.elapsed().as_secs_f64() < LIMIT_S, "{what} took {:?}", started.elapsed());
    assert!(checked.scenario.is_none() && checked.environment.is_none(), "{what} was accepted");
    assert!(checked.diagnostics.iter().any(|d| d.severity == Severity::Mistake), "{what}: no mistake");
    assert!(shown.len() < 400_000, "{what}: {} bytes of messages", shown.len());
    for diagnostic in &checked.diagnostics {
        assert!(diagnostic.message.len() < 2_000, "{what}: a message of {} bytes", diagnostic.message.len());
        if let Some(span) = diagnostic.span {
            assert!(span.offset + span.len <= text.len() && text.is_char_boundary(span.offset), "{what}: {span:?}");
        }
    }
    shown
}

#[test]
fn large_and_deep() {
    assert!(refused("a line of 10 MB", &format!("{HEAD}spec: {{summary: {}}}", "x".repeat(10 << 20))).contains("larger than 1 MiB"));
    refused("a line of almost 1 MiB", &format!("{HEAD}spec: {{summary: {}}}", "x".repeat((1 << 20) - 200)));
    refused("a key of almost 1 MiB", &format!("{HEAD}spec: {{{}: 1}}", "x".repeat((1 << 20) - 200)));
    refused("a quoted key of almost 1 MiB", &format!("{HEAD}spec: {{\"{}\": 1}}", "x".repeat((1 << 20) - 200)));
    assert!(
        refused("lists 100,000 deep", &"[".repeat(100_000)).contains("deep")
            || refused("lists 100,000 deep", &"[".repeat(100_000)).contains("not YAML")
    );
    refused("maps 100,000 deep", &"{a: ".repeat(100_000));
    refused("indentation 700 deep", &(0..700).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>());
    refused("dashes 300,000 deep", &"- ".repeat(300_000));
    refused("question marks", &"? ".repeat(300_000));
    refused("70 levels, balanced", &format!("{HEAD}spec: {}{}", "[".repeat(70), "]".repeat(70)));
    refused("60 levels where a map belongs", &format!("{HEAD}spec: {}{}", "[".repeat(50), "]".repeat(50)));
    refused(
        "nested steps",
        &format!("{HEAD}spec:\n  summary: x\n  objectives: []\n  steps: {}{}", "[{parallel: ".repeat(28), "}]".repeat(28)),
    );
    refused("200,000 items", &format!("{HEAD}spec: {{steps: [{}]}}", "1,".repeat(200_000)));
    refused("40,000 keys", &format!("{HEAD}spec:\n{}", (0..20_000).map(|i| format!("  k{i}: 1\n")).collect::<String>()));
    refused("the same key 20,000 times", &format!("{HEAD}spec:\n{}", "  summary: 1\n".repeat(20_000)));
    refused("100,000 documents", &"---\na\n".repeat(100_000));
    refused("500,000 comments", &"#\n".repeat(500_000));
}

#[test]
fn bombs_of_aliases() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..30 {
        let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
    }
    assert!(refused("a billion laughs", &bomb).contains("more than 50000 values"));
    // One that goes over the budget while it is anchored, not while it is used.
    let mut slow = String::from("a0: &a0 x\n");
    for (i, items) in [10, 9, 8, 7, 6, 6].iter().enumerate() {
        slow.push_str(&format!("a{}: &a{} [{}]\n", i + 1, i + 1, vec![format!("*a{i}"); *items].join(", ")));
    }
    let shown = refused("a slow bomb", &format!("{slow}b: [*a6]\n"));
    assert!(shown.contains("more than 50000 values") && !shown.contains("holds the alias itself"), "{shown}");
    assert!(refused("an alias of itself", &format!("{HEAD}spec: &a {{b: *a}}")).contains("holds the alias itself"));
    refused("an alias of itself in a list", "&a [*a, *a]");
    let merges: String = (0..2_000).map(|i| format!("m{i}: &m{i}\n  <<: *m{}\n  k{i}: 1\n", i.max(1) - 1)).collect();
    refused("merges of merges", &merges);
    let deep: String = (1..200).map(|i| format!("b{i}: &b{i} [*b{}]\n", i - 1)).collect();
    refused("depth by aliases", &format!("b0: &b0 x\n{deep}"));
    refused("50,000 anchors", &format!("{HEAD}spec: [{}]", (0..50_000).map(|i| format!("&x{i} 1,")).collect::<String>()));
}

#[test]
fn odd_texts() {
    assert!(refused("nothing", "").contains("holds no Scenario or Environment"));
    refused("a comment", "# nothing here\n");
    refused("three dashes", "---\n---\n...\n");
    refused("a text", "hello");
    refused("a list", "- a\n- b\n");
    refused("null", "~");
    assert!(refused("NUL", "apiVersion: x\0y").contains(":1:14: mistake: a NUL character"));
    assert!(refused("tabs", &format!("{HEAD}spec:\n\tsummary: x\n")).contains("tabs"));
    refused("control characters", "a: \"\u{1}\u{7f}\u{85}\u{2028}\"\n");
    refused("a lone byte order mark", "\u{feff}");
    refused("two byte order marks", "\u{feff}\u{feff}a: b");
    refused("directives", "%YAML 9.9\n---\na: b\n");
    refused("unfinished", "a: [b, {c: \"d");
    refused("wide characters", &format!("{HEAD}spec: {{\"\u{1F525}\u{1F692}\": 1, ключ: 2, \"e\u{301}\": 3}}"));
    for number in [
        "1e999999",
        "-1e999999",
        "0x",
        "0xffffffffffffffffffffffffffffffffffffffffffff",
        ".inf",
        ".nan",
        "--1",
        "1_000",
        &"9".repeat(10_000),
    ] {
        let shown = refused(
            number,
            &format!("{HEAD}spec: {{summary: x, limits: {{pods: {number}}}, objectives: [{{dataLoss: {{ledger: x, writes: {number}}}}}]}}"),
        );
        assert!(shown.contains("`pods`"), "{number}: {shown}");
    }
    for cel in [
        "(".repeat(2_000),
        "!".repeat(2_000),
        "-".repeat(2_000),
        "[".repeat(1_999),
        "a?".repeat(900),
        "object".to_owned() + &".a".repeat(900),
        "object".to_owned() + &"+1".repeat(900),
        "object".to_owned() + &" || object".repeat(200),
        "\"".to_owned(),
        "object.map(x, ".repeat(140),
        "\u{1F525}".repeat(400),
    ] {
        let text = serde_json::json!({"probes": {"p": {"object": {"apiVersion": "v1", "kind": "Pod", "name": "x", "cel": cel}}}});
        let started = Instant::now();
        let _ = check_text("cel", &format!("{HEAD}spec: {text}"), &[]);
        assert!(started.elapsed().as_secs_f64() < LIMIT_S, "{cel}");
    }
}

/// A byte order mark and Windows' line ends are no mistake, and places are right with them.
#[test]
fn windows_files_are_read() {
    let text = format!(
        "\u{feff}{HEAD}spec:\n  summary: x\n  probes: {{p: {{http: {{url: \"http://a/\"}}}}}}\n  steps: [{{hold: 1s}}]\n  objectives: [{{availability: {{probe: p, atLeast: 99%}}}}]\n"
    );
    let crlf = text.replace('\n', "\r\n");
    for text in [&text, &crlf] {
        let checked = check_text("x", text, &[]);
        assert!(checked.scenario.is_some(), "{}", render(&checked.diagnostics, false));
        let wrong = check_text("x", &text.replace("probe: p", "probe: q"), &[]);
        assert_eq!(wrong.diagnostics[0].line(), "x:8:39: mistake: probe `q` does not exist: did you mean `p`?");
    }
    // The lines' numbers in the snippet are those of the place.
    for line in 1..=4 {
        let mut lines = ["a: 1", "b: 2", "c: 3", "d: 4"].map(str::to_owned);
        lines[line - 1].insert(0, '@');
        let [unix, windows] = ["\n", "\r\n"].map(|end| render(&check_text("x", &lines.join(end), &[]).diagnostics, false));
        assert_eq!(unix, windows);
        assert!(windows.contains(&format!("x:{line}:1: mistake")) && windows.contains(&format!("\n {line} | @")), "{windows}");
    }
    let first = check_text("x", "\u{feff}kind: Scenario\r\n", &[]);
    assert_eq!(first.diagnostics[0].span.map(|s| (s.line, s.column)), Some((1, 1)));
}

/// No control character of a file reaches a terminal, and what is pointed at stays the same.
#[test]
fn control_characters_are_shown_and_not_sent() {
    let hostile = ['\u{1b}', '\u{7}', '\u{8}', '\r', '\u{7f}', '\u{9b}', '\u{85}', '\u{202e}', '\u{2066}', '\u{2028}'];
    let at = |text: &str| {
        let checked = check_text("x", text, &[]);
        render(&checked.diagnostics, false)
    };
    for c in hostile {
        let comment = format!("{HEAD}spec: {{summary: x, nope: 1}} # {c}[2Jx\n");
        let quoted = format!("{HEAD}spec: {{summary: \"x{c}{c}y\", nope: 1}}\n");
        let key = format!("{HEAD}spec: {{\"a{c}b\": 1}}\n");
        let file = format!("{HEAD}spec: {{summary: x, steps: [{{runbook: {{file: \"a{}b\"}}}}]}}\n", c.escape_unicode());
        for text in [&comment, &quoted, &key, &file, &format!("a\n{c}\0")] {
            let shown = at(text);
            assert!(!shown.contains('\0') && !shown.contains(hostile), "{shown:?}");
        }
    }
    // As many columns as the file has characters: the marks stand where they stand without them, before and behind.
    let marks = |inside: &str| -> Vec<String> {
        let text = format!("{HEAD}spec: {{summary: \"{inside}\", nope: \"{inside}\", summary: \"{inside}\"}}\n");
        at(&text).lines().filter(|line| line.contains('^')).map(str::to_owned).collect()
    };
    assert!(marks("xyz").len() >= 3);
    assert_eq!(marks("\u{202e}\u{85}\u{2066}"), marks("xyz"));
    let shown = at(&format!("{HEAD}spec: {{summary: \"xy\u{1b}z\"}}\n"));
    let column = |of: char| shown.lines().find_map(|line| line.chars().position(|c| c == of));
    assert!(shown.contains("x:4:20: mistake") && column('\u{241b}').is_some(), "{shown}");
    assert_eq!(column('^'), column('\u{241b}'), "{shown}");
    assert!(at("a: 1\nb: \0\n").contains('\u{2400}'));
}

#[test]
fn files_that_are_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.yaml");
    let says = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let checked = check_file(&file, &[]);
        assert!(load_scenario(&file, &[]).is_err() && load_environment(&file).is_err());
        render(&checked.diagnostics, false)
    };
    assert!(says(b"kind: Scenario\nmetadata: \xff\xfe\n").contains("x.yaml:2:11: mistake: not UTF-8"));
    assert!(says(b"\xff\xfek\0i\0").contains("UTF-16"));
    assert!(says(&vec![b'x'; 10 << 20]).contains("larger than 1 MiB"));
    assert!(says(&[0u8; 1000]).contains("NUL"));
    assert!(render(&check_file(folder.path(), &[]).diagnostics, false).contains("failed to read the file"));
    assert!(render(&check_file(Path::new("/dev/zero"), &[]).diagnostics, false).contains("larger than 1 MiB"));
}

/// The corpus of the fuzzer and some thousand mutations of it, always the same ones.
#[test]
fn the_corpus_and_its_mutations() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds: Vec<(String, Vec<u8>)> = std::fs::read_dir(root.join("fuzz/corpus/scenario"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    seeds.sort();
    assert!(seeds.len() >= 20, "{} seeds", seeds.len());
    for (name, seed) in &seeds {
        holds(name, seed);
    }
    let words: Vec<&[u8]> = vec![
        b"{",
        b"}",
        b"[",
        b"]",
        b": ",
        b"- ",
        b"\n",
        b"  ",
        b"\t",
        b"&a ",
        b"*a",
        b"<<: *a",
        b"\"",
        b"'",
        b"|\n",
        b"---\n",
        b"...\n",
        b"#",
        b"!x ",
        b"${",
        b"${a}",
        b"}",
        b"inject",
        b"freeze",
        b"within",
        b"probe",
        b"target",
        b"0s",
        b"-1",
        b"1e99",
        b"null",
        b"\xc3\xa4",
        b"\xf0\x9f\x94\xa5",
        b"\r",
        b"? ",
        b"steps",
        b"parallel",
    ];
    let started = Instant::now();
    let mut rng = StdRng::seed_from_u64(20_261_122);
    for round in 0..3_000 {
        let mut bytes = seeds[rng.random_range(0..seeds.len())].1.clone();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..=bytes.len());
            match rng.random_range(0..5) {
                0 => drop(bytes.splice(at..at, words[rng.random_range(0..words.len())].iter().copied())),
                1 => drop(bytes.drain(at..(at + rng.random_range(0..20)).min(bytes.len()))),
                2 if at < bytes.len() => bytes[at] = rng.random(),
                3 => {
                    let other = &seeds[rng.random_range(0..seeds.len())].1;
                    let from = rng.random_range(0..=other.len());
                    let piece = other[from..(from + 80).min(other.len())].to_vec();
                    drop(bytes.splice(at..at, piece));
                }
                _ => bytes.truncate(at.max(8)),
            }
        }
        holds(&format!("mutation {round}"), &bytes);
        assert!(started.elapsed().as_secs() < 120, "{round} mutations in two minutes");
    }
}

/// What must be true of every input.
fn holds(name: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let checked = check_text(name, &text, &[("a".to_owned(), "1s".to_owned())]);
    let mistakes = checked.diagnostics.iter().any(|d| d.severity == Severity::Mistake);
    assert!(mistakes || checked.scenario.is_some() || checked.environment.is_some(), "{name}: nothing in it and nothing wrong:\n{text}");
    assert!(!mistakes || checked.scenario.is_none(), "{name}: wrong and yet a scenario:\n{text}");
    for diagnostic in &checked.diagnostics {
        assert!(!diagnostic.message.contains("cannot be used"), "{name}: the shape was right and the type was not: {diagnostic}\n{text}");
        let span = diagnostic.span.unwrap_or_default();
        assert!(text.get(span.offset..span.offset + span.len).is_some(), "{name}: {span:?}");
    }
    let _ = render(&checked.diagnostics, false);
}
