//! The rules of the repository, held by reading its files. Each rule is a function from text to
//! offences, tried here on a bad sample too, so that it is known to be able to fail.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};

/// The layers of `src/`, lowest first: a module may use those below its own.
const LAYERS: [&[&str]; 10] = [
    &["model"],
    &["clock", "config"],
    &["telemetry"],
    &["rollups"],
    &["bus", "quota", "store"],
    &["analytics", "events"],
    &["jobs"],
    &["http"],
    &["app"],
    &["cli"],
];

/// The longest file, in lines.
const MAX_LINES: usize = 600;

/// One source file, by its path from the root of the repository.
struct Source {
    path: PathBuf,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every `.rs` file below `folders`, in order of path.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in folders {
        collect(&root().join(folder), &mut found);
    }
    found.sort();
    found
        .into_iter()
        .map(|path| Source {
            text: fs::read_to_string(&path).unwrap(),
            path: path.strip_prefix(root()).unwrap().to_owned(),
        })
        .collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return; // `examples/` and the like need not be there.
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<Source> {
    sources(&["src", "tests", "benches", "examples"])
}

/// Fails with a line for each offence in any of `sources`.
fn hold(sources: &[Source], rule: impl Fn(&Source) -> Vec<String>) {
    assert!(!sources.is_empty(), "no sources found");
    let offences: Vec<String> = sources
        .iter()
        .flat_map(|source| {
            rule(source)
                .into_iter()
                .map(|offence| format!("{}: {offence}", source.path.display()))
        })
        .collect();
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

fn sample(path: &str, text: &str) -> Source {
    Source {
        path: path.into(),
        text: text.to_owned(),
    }
}

/// The text with comments and the insides of literals blanked, line by line as before: what is
/// left is code.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = literal(rest) {
            length
        } else {
            let c = rest.chars().next().unwrap();
            out.push(c);
            at += c.len_utf8();
            continue;
        };
        out.extend(rest[..skip].chars().filter(|&c| c == '\n'));
        out.push(' ');
        at += skip;
    }
    out
}

/// The length of the string or character literal that `rest` starts with.
fn literal(rest: &str) -> Option<usize> {
    if rest.starts_with("r\"") || rest.starts_with("r#") {
        let hashes = rest[1..].bytes().take_while(|&b| b == b'#').count();
        if rest.as_bytes().get(1 + hashes) != Some(&b'"') {
            return None; // A raw identifier.
        }
        let close = format!("\"{}", "#".repeat(hashes));
        let body = hashes + 2;
        return Some(
            rest[body..]
                .find(&close)
                .map_or(rest.len(), |end| body + end + close.len()),
        );
    }
    if rest.starts_with('"') {
        let mut escaped = false;
        for (index, c) in rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => return Some(index + 1),
                _ => {}
            }
        }
        return Some(rest.len());
    }
    if let Some(inner) = rest.strip_prefix('\'') {
        // A lifetime has no closing quote after its first character.
        let length = if inner.starts_with('\\') {
            inner.get(2..)?.find('\'')? + 2
        } else {
            inner.chars().next()?.len_utf8()
        };
        return (inner.as_bytes().get(length) == Some(&b'\'')).then_some(length + 2);
    }
    None
}

/// The top-level module that a file of `src/` belongs to; `None` for `lib.rs` and `main.rs`.
fn module_of(path: &Path) -> Option<String> {
    let first = path.strip_prefix("src").ok()?.iter().next()?.to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib" && name != "main").then(|| name.to_owned())
}

/// The top-level modules that code names by `crate::a` or `crate::{a, b::c}`.
fn used_modules(code: &str) -> Vec<String> {
    let ident = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|&c| c == '_' || c.is_alphanumeric())
            .collect()
    };
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            used.push(ident(rest));
            continue;
        };
        let (mut depth, mut start) = (0_u32, 0);
        for (index, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' | ',' if depth == 0 => {
                    used.push(ident(&group[start..index]));
                    start = index + 1;
                    if c == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    used.retain(|name| !name.is_empty());
    used
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&module))
}

/// Dependencies point one way, and modules of one layer don't use each other.
fn wrong_way(source: &Source) -> Vec<String> {
    let Some(module) = module_of(&source.path) else {
        return Vec::new();
    };
    let Some(own) = layer(&module) else {
        return vec![format!("module `{module}` has no place in LAYERS")];
    };
    used_modules(&code_only(&source.text))
        .into_iter()
        .filter(|used| *used != module)
        .filter_map(|used| match layer(&used) {
            // What is no module is an item or a macro of the crate's root.
            Some(other) if other >= own => Some(format!("`{module}` must not use `{used}`")),
            _ => None,
        })
        .collect()
}

fn too_long(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines > MAX_LINES {
        vec![format!("{lines} lines, at most {MAX_LINES} are allowed")]
    } else {
        Vec::new()
    }
}

fn mod_file(source: &Source) -> Vec<String> {
    if source.path.ends_with("mod.rs") {
        vec!["name it after its folder, beside it".to_owned()]
    } else {
        Vec::new()
    }
}

/// What must not be merged in code.
fn unfinished(source: &Source) -> Vec<String> {
    let code = code_only(&source.text);
    let mut offences = Vec::new();
    for word in ["todo!", "unimplemented!", "dbg!", "#[ignore]"] {
        if code.contains(word) {
            offences.push(format!("has `{word}`"));
        }
    }
    for mark in ["TODO", "FIXME", "XXX"] {
        let commented = |line: &str| line.contains("//") && line.contains(&format!("{mark}:"));
        if source.text.lines().any(commented) && source.path != Path::new("tests/tidy.rs") {
            offences.push(format!("has a `{mark}` comment"));
        }
    }
    offences
}

/// A sleep in a test needs a comment `sleep: why` on its line or in the comment right above.
fn unexplained_sleep(source: &Source) -> Vec<String> {
    let code = code_only(&source.text);
    let first_test_line = if source.path.starts_with("src") {
        match code.lines().position(|line| line.contains("#[cfg(test)]")) {
            Some(line) => line,
            None => return Vec::new(),
        }
    } else {
        0
    };
    let raw: Vec<&str> = source.text.lines().collect();
    code.lines()
        .enumerate()
        .skip(first_test_line)
        .filter(|(_, line)| line.contains("thread::sleep") || line.contains("time::sleep"))
        .filter(|&(index, _)| {
            let above = raw[..index]
                .iter()
                .rev()
                .take_while(|line| line.trim_start().starts_with("//"));
            !std::iter::once(&raw[index])
                .chain(above)
                .any(|line| line.contains("sleep: "))
        })
        .map(|(index, _)| format!("line {}: a sleep without `// sleep: why`", index + 1))
        .collect()
}

/// The benchmarks among `sources` that `readme` does not say how to run.
fn unexplained_benches(sources: &[Source], readme: &str) -> Vec<String> {
    sources
        .iter()
        .filter_map(|source| {
            let inside = source.path.strip_prefix("benches").ok()?;
            match inside.iter().count() {
                1 => Some(inside.file_stem()?.to_str()?.to_owned()),
                2 if inside.ends_with("main.rs") => Some(inside.parent()?.to_str()?.to_owned()),
                _ => None,
            }
        })
        .filter(|name| !readme.contains(&format!("cargo bench --bench {name}")))
        .collect()
}

/// The requests of a Postman collection without a test or without a description, by name.
fn untested_requests(collection: &serde_json::Value) -> Vec<String> {
    let mut bare = Vec::new();
    for item in collection["item"].as_array().into_iter().flatten() {
        if item["request"].is_null() {
            bare.extend(untested_requests(item));
            continue;
        }
        let tested = item["event"].to_string().contains("pm.test(");
        let described = item["request"]["description"]
            .as_str()
            .is_some_and(|text| !text.is_empty());
        if !(tested && described) {
            bare.push(item["name"].to_string());
        }
    }
    bare
}

#[test]
fn dependencies_point_one_way() {
    hold(&sources(&["src"]), wrong_way);
}

#[test]
fn files_are_short() {
    hold(&all_sources(), too_long);
}

#[test]
fn modules_are_named_after_their_folder() {
    hold(&all_sources(), mod_file);
}

#[test]
fn nothing_is_left_unfinished() {
    hold(&all_sources(), unfinished);
}

#[test]
fn tests_wait_for_conditions() {
    hold(&sources(&["src", "tests"]), unexplained_sleep);
}

#[test]
fn every_benchmark_is_explained() {
    let readme = fs::read_to_string(root().join("benches/README.md")).unwrap();
    let missing = unexplained_benches(&sources(&["benches"]), &readme);
    assert!(missing.is_empty(), "not in benches/README.md: {missing:?}");
}

#[test]
fn every_postman_request_is_tested_and_described() {
    let path = root().join("postman/tollgate.postman_collection.json");
    let text = fs::read_to_string(path).unwrap();
    let collection = serde_json::from_str(&text).unwrap();
    assert_eq!(untested_requests(&collection), [""; 0]);
}

#[test]
fn the_npm_lock_names_no_registry() {
    let lock = fs::read_to_string(root().join("postman/package-lock.json")).unwrap();
    assert!(!lock.contains("\"resolved\""));
}

#[test]
fn the_papers_are_there() {
    for (name, mark) in [
        ("README.md", "cargo test"),
        ("ARCHITECTURE.md", "invariant"),
        ("CHANGELOG.md", "## "),
        ("CONTRIBUTING.md", ".ci/run"),
        ("LICENSE-MIT", "MIT License"),
        ("LICENSE-APACHE", "Apache License"),
    ] {
        let text = fs::read_to_string(root().join(name)).unwrap_or_default();
        assert!(
            text.to_lowercase().contains(&mark.to_lowercase()),
            "{name} is missing, or says nothing of {mark:?}"
        );
    }
}

/// The self-checks: each rule refuses its bad sample and lets a good one pass.
mod rules {
    use super::*;

    #[test]
    fn code_is_told_from_comments_and_literals() {
        let code = code_only(
            "let a = \"x // \\\" y\"; // note\nlet b = 'q'; /* z */ let c: &'static str = r#\"todo!\"#;",
        );
        assert!(code.contains("let a =") && code.contains("let b ="));
        assert!(code.contains("&'static str"));
        for gone in ["x //", "note", "'q'", "z", "todo!"] {
            assert!(!code.contains(gone), "{gone} is left in {code}");
        }
        assert_eq!(code.lines().count(), 2);
    }

    #[test]
    fn a_wrong_way_dependency_is_found() {
        for (path, text) in [
            ("src/model/id.rs", "use crate::clock::Clock;"),
            ("src/clock.rs", "use crate::config::Settings;"),
            (
                "src/store/embedded.rs",
                "use crate::{model::id, jobs::{self, Jobs}};",
            ),
            ("src/jobs.rs", "fn f() { crate::http::rocket(); }"),
            ("src/stray.rs", ""),
        ] {
            assert_eq!(wrong_way(&sample(path, text)).len(), 1, "{path}: {text}");
        }
        for (path, text) in [
            ("src/store.rs", "use crate::model::id; // not crate::jobs"),
            (
                "src/jobs.rs",
                "use crate::{clock, jobs::retry, store::{Store}};",
            ),
            ("src/lib.rs", "use crate::cli;"),
        ] {
            assert!(wrong_way(&sample(path, text)).is_empty(), "{path}: {text}");
        }
    }

    #[test]
    fn a_long_file_is_found() {
        assert!(too_long(&sample("a.rs", &"\n".repeat(MAX_LINES))).is_empty());
        assert_eq!(
            too_long(&sample("a.rs", &"\n".repeat(MAX_LINES + 1))).len(),
            1
        );
    }

    #[test]
    fn a_mod_file_is_found() {
        assert_eq!(mod_file(&sample("src/jobs/mod.rs", "")).len(), 1);
        assert!(mod_file(&sample("src/jobs/model.rs", "")).is_empty());
    }

    #[test]
    fn unfinished_code_is_found() {
        for text in [
            "fn f() { todo!() }",
            "fn f() { unimplemented!(\"later\") }",
            "fn f() { dbg!(1); }",
            "#[test]\n#[ignore]\nfn f() {}",
            "// TODO: later",
        ] {
            assert_eq!(unfinished(&sample("src/a.rs", text)).len(), 1, "{text}");
        }
        let fine = "#[ignore = \"takes an hour\"]\nfn f() { g(\"todo!()\") } // no todo!";
        assert!(unfinished(&sample("src/a.rs", fine)).is_empty());
    }

    #[test]
    fn an_unexplained_sleep_is_found() {
        let bad = "fn f() {\n    std::thread::sleep(D);\n}";
        assert_eq!(unexplained_sleep(&sample("tests/a.rs", bad)).len(), 1);
        let tests = format!("#[cfg(test)]\nmod tests {{ {bad} }}");
        assert_eq!(unexplained_sleep(&sample("src/a.rs", &tests)).len(), 1);
        assert!(unexplained_sleep(&sample("src/clock.rs", bad)).is_empty());
        let good = "// sleep: the pause\n// between polls\ntokio::time::sleep(D).await;";
        assert!(unexplained_sleep(&sample("tests/a.rs", good)).is_empty());
    }

    #[test]
    fn an_unexplained_benchmark_is_found() {
        let benches = [
            sample("benches/alone.rs", ""),
            sample("benches/http/main.rs", ""),
            sample("benches/http/load.rs", ""),
        ];
        assert_eq!(
            unexplained_benches(&benches, "`cargo bench --bench http`"),
            ["alone"]
        );
    }

    #[test]
    fn an_untested_request_is_found() {
        let collection = serde_json::json!({"item": [{"name": "folder", "item": [
            {"name": "bare", "request": {"description": "says"}, "event": []},
            {"name": "mute", "request": {}, "event": ["pm.test("]},
            {"name": "good", "request": {"description": "says"}, "event": ["pm.test("]},
        ]}]});
        assert_eq!(untested_requests(&collection), ["\"bare\"", "\"mute\""]);
    }
}
