//! Worlds: what is in the cluster before a drill, as manifests.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    labels,
    scenario::{self, Problems, types::Environment},
};

/// The largest file of a world, in bytes, and how many there may be.
const MOST_BYTES: u64 = 4 << 20;
const MOST_FILES: usize = 200;
/// What a world beside a scenario is called: a folder of this name, or a file of it with `.yaml`.
const NAME: &str = "world";

/// Why a world cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// There is none.
    #[error("there is no world for the sandbox: looked for {tried}; name one with --world PATH (a file or a folder of manifests)")]
    None {
        /// Where it was looked for.
        tried: String,
    },
    /// A file cannot be read, or is not what it must be.
    #[error("{file}: {why}")]
    File {
        /// The file.
        file: String,
        /// Why.
        why: String,
    },
    /// The environment in it has mistakes.
    #[error(transparent)]
    Environment(Problems),
}

/// The environment of a world that names none.
const ENVIRONMENT: &str = "apiVersion: firedrill.dev/v1alpha1
kind: Environment
metadata: {name: sandbox}
spec: {clusters: {main: {uid: sandbox}}}
";

/// The nodes of a world that has none: three, in a zone each, on which drills are allowed.
fn nodes() -> impl Iterator<Item = (String, Value)> {
    [("node1", "zone-a"), ("node2", "zone-b"), ("node3", "zone-c")].into_iter().map(|(name, zone)| {
        let labels = json!({labels::ZONE: zone, labels::DRILLS: labels::ALLOWED});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
        ("(the sandbox's own nodes)".to_owned(), node)
    })
}

/// The manifests of a world.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// Objects in the order in which they are made, each with the file it is from.
    pub objects: Vec<(String, Value)>,
    /// Where drills run in it, with the text it was read from.
    pub environment: (Environment, String),
    /// SHA-256 (hex) of all files, in order.
    pub sha256: String,
    /// Its path, for people.
    pub path: String,
}

impl World {
    /// The world that is named, else the one beside the scenario, else the one beside its folder.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn find(scenario: &Path, named: Option<&Path>) -> Result<Self, WorldError> {
        if let Some(named) = named {
            return Self::load(named);
        }
        let own = scenario.parent().unwrap_or(Path::new(""));
        let mut tried = Vec::new();
        for folder in [own.to_owned(), own.join("..")] {
            for path in [folder.join(NAME), folder.join(format!("{NAME}.yaml"))] {
                if path.exists() {
                    return Self::load(&path);
                }
                tried.push(path.display().to_string());
            }
        }
        Err(WorldError::None { tried: tried.join(", ") })
    }

    /// Reads a file, or all `.yaml` files of a folder in the order of their names.
    ///
    /// # Errors
    /// As in [`WorldError`].
    pub fn load(path: &Path) -> Result<Self, WorldError> {
        let fail = |path: &Path, why: String| WorldError::File { file: path.display().to_string(), why };
        let files: Vec<PathBuf> = if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(|error| fail(path, format!("failed to read: {error}")))?;
            let mut files: Vec<PathBuf> =
                entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|file| file.extension().is_some_and(|e| e == "yaml")).collect();
            files.sort();
            files
        } else {
            vec![path.to_owned()]
        };
        if files.is_empty() || files.len() > MOST_FILES {
            return Err(fail(path, format!("it has {} files `*.yaml`; a world has 1 to {MOST_FILES}", files.len())));
        }
        let mut texts = Vec::new();
        for file in files {
            let size = std::fs::metadata(&file).map_err(|error| fail(&file, format!("failed to read: {error}")))?.len();
            if size > MOST_BYTES {
                return Err(fail(&file, format!("it has {size} bytes, more than {MOST_BYTES}")));
            }
            let text = std::fs::read_to_string(&file).map_err(|error| fail(&file, format!("failed to read: {error}")))?;
            texts.push((file.display().to_string(), text));
        }
        Self::parse(&path.display().to_string(), &texts)
    }

    /// From the texts of files, each with its name.
    ///
    /// # Errors
    /// As in [`WorldError`].
    pub fn parse(path: &str, texts: &[(String, String)]) -> Result<Self, WorldError> {
        let (mut objects, mut environment, mut digest) = (Vec::new(), None, Sha256::new());
        for (file, text) in texts {
            digest.update(text.as_bytes());
            let fail = |why: String| WorldError::File { file: file.clone(), why };
            for part in documents(text) {
                let document: Value = serde_saphyr::from_str(&part).map_err(|error| fail(error.to_string()))?;
                let field = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                let (version, kind) = (field("apiVersion"), field("kind"));
                match (version.as_str(), kind.as_str()) {
                    _ if document.is_null() => {}
                    ("firedrill.dev/v1alpha1", "Environment") => {
                        if environment.is_some() {
                            return Err(fail("a second Environment: a world has one at most".to_owned()));
                        }
                        let found = scenario::parse_environment(file, &part).map_err(WorldError::Environment)?;
                        environment = Some((found, part.trim_start().to_owned()));
                    }
                    ("", _) | (_, "") => return Err(fail("a document without `apiVersion` and `kind`".to_owned())),
                    _ => objects.push((file.clone(), document)),
                }
            }
        }
        if objects.iter().all(|(_, object)| object.get("kind").and_then(Value::as_str) != Some("Node")) {
            objects.splice(..0, nodes());
        }
        let environment = match environment {
            Some(environment) => environment,
            None => {
                let own = scenario::parse_environment("(the sandbox's own)", ENVIRONMENT).map_err(WorldError::Environment)?;
                (own, ENVIRONMENT.to_owned())
            }
        };
        Ok(Self { objects, environment, sha256: hex::encode(digest.finalize()), path: path.to_owned() })
    }
}

/// The documents of a file one by one, each where it was: what is before it are empty lines, so that places in messages are right.
fn documents(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for (number, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            parts.push("\n".repeat(number + 1));
        } else if let Some(part) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    parts.retain(|part| part.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<World, WorldError> {
        World::parse("w", &[("w/a.yaml".to_owned(), text.to_owned())])
    }

    #[test]
    fn documents_are_objects_in_their_order_and_what_is_no_object_is_refused() {
        let world =
            parse("---\napiVersion: v1\nkind: Node\nmetadata: {name: n0}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n")
                .unwrap();
        let kinds: Vec<&str> = world.objects.iter().map(|(_, object)| object["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Node", "Namespace"]);
        assert_eq!(world.environment.0.metadata.name, "sandbox", "its own, where none is named");
        let world = parse("# A world\n---\nkind: Node\napiVersion: v1\n---\napiVersion: firedrill.dev/v1alpha1\nkind: Environment\nmetadata: {name: e}\nspec: {clusters: {main: {uid: u}}}\n").unwrap();
        assert_eq!((world.objects.len(), world.environment.0.metadata.name.as_str()), (1, "e"));
        let wrong = parse("kind: Node\napiVersion: v1\n---\napiVersion: firedrill.dev/v1alpha1\nkind: Environment\nmetadata: {nam: e}\n")
            .unwrap_err();
        let WorldError::Environment(problems) = wrong else { panic!("{wrong}") };
        assert!(problems.list.iter().any(|mistake| mistake.span.is_some_and(|span| span.line == 6)), "{problems:?}");
        for (text, word) in [("kind: Node\n", "apiVersion"), ("a: [", "w/a.yaml"), ("just a text\n", "without")] {
            assert!(parse(text).unwrap_err().to_string().contains(word), "{text}");
        }
    }

    #[test]
    fn a_missing_world_says_where_it_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let scenario = folder.path().join("one").join("scenario.yaml");
        let error = World::find(&scenario, None).unwrap_err().to_string();
        assert!(error.contains("one/world") && error.contains("--world"), "{error}");
        std::fs::create_dir_all(folder.path().join("world")).unwrap();
        std::fs::create_dir_all(folder.path().join("one")).unwrap();
        assert!(World::find(&scenario, None).unwrap_err().to_string().contains("0 files"), "an empty one is no world");
        std::fs::write(folder.path().join("world/b.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n").unwrap();
        std::fs::write(folder.path().join("world/a.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n").unwrap();
        let world = World::find(&scenario, None).unwrap();
        let names: Vec<_> = world.objects.iter().map(|(_, o)| o["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["node1", "node2", "node3", "a", "b"], "with nodes of the sandbox's own, since it has none");
    }
}
