//! What the docs say of the code is still so.

const TABLE: &str = include_str!("../docs/architecture.md");

/// The crates of a section of Cargo.toml.
fn dependencies(section: &str) -> Vec<String> {
    let text = include_str!("../Cargo.toml");
    let begin = text.find(&format!("\n[{section}]\n")).unwrap_or_else(|| panic!("no [{section}] in Cargo.toml"));
    let rest = text[begin + 1..].lines().skip(1);
    rest.take_while(|line| !line.starts_with('[')).filter_map(|line| Some(line.split_once(" = ")?.0.to_owned())).collect()
}

#[test]
fn every_dependency_is_in_the_table_with_its_reason() {
    let rows: Vec<Vec<&str>> = TABLE
        .lines()
        .skip_while(|line| !line.starts_with("## Dependencies"))
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |").map(|(crates, _)| crates))
        .map(|crates| crates.trim_end_matches(" (tests)").split(", ").collect())
        .collect();
    let told: Vec<&str> = rows.into_iter().flatten().collect();
    let used: Vec<String> = [dependencies("dependencies"), dependencies("dev-dependencies")].concat();
    assert!(used.len() > 30 && told.len() > 30, "{used:?} {told:?}");
    // A part of this project, not somebody's crate.
    let missing: Vec<&String> = used.iter().filter(|name| *name != "testbed-parts" && !told.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "not in docs/architecture.md's table of dependencies: {missing:?}");
    let gone: Vec<&&str> = told.iter().filter(|name| !matches!(**name, "crate" | "---") && !used.iter().any(|u| u == **name)).collect();
    assert!(gone.is_empty(), "in docs/architecture.md's table, but no dependency any more: {gone:?}");
}
