//! The pattern layer's shape, as the sources have it.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|it| it == "rs") {
            into.push(path);
        }
    }
}

/// Each source file by its path below `src`, with `/` between folders, and its lines.
fn files() -> Vec<(String, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).expect("below it").to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(&path).expect("a source file");
        (name, text.lines().map(str::to_owned).collect())
    };
    paths.into_iter().map(read).collect()
}

/// Lines of code: no comments (and no documentation, where examples may name any type), no tests beside the code.
fn code(lines: &[String]) -> impl Iterator<Item = (usize, &str)> {
    let tests = lines.iter().position(|line| line.trim() == "mod tests {");
    let numbered = lines[..tests.unwrap_or(lines.len())].iter().enumerate();
    numbered
        .map(|(at, line)| (at + 1, line.split("//").next().unwrap_or_default()))
        .filter(|(_, line)| !line.trim().is_empty())
}

/// What a pattern is stands in its room: nothing else asks for the type of a socket.
#[test]
fn only_rooms_and_the_wire_know_socket_types() {
    const NAMES: [&str; 18] = [
        "Req", "Rep", "Dealer", "Router", "Pub", "XPub", "Sub", "XSub", "Push", "Pull", "Pair",
        "Client", "Server", "Radio", "Dish", "Scatter", "Gather", "Channel",
    ];
    let mut mentions = Vec::new();
    for (name, lines) in files() {
        if name.starts_with("pattern/") || name.starts_with("wire/") || name == "socket_type.rs" {
            continue;
        }
        // The rows of the table name the types that an option means something to.
        if name == "options/table.rs" || name.ends_with("/tests.rs") {
            continue;
        }
        for (number, line) in code(&lines) {
            let names = NAMES.iter().any(|it| line.contains(&format!("SocketType::{it}")));
            let asks = line.contains("match socket_type") || line.contains("socket_type ==");
            let rooms = line.contains("Any::") && !line.contains("Any::new(");
            if names || asks || rooms {
                mentions.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    assert!(mentions.is_empty(), "socket types outside of their rooms:\n{}", mentions.join("\n"));
}

/// Imports point one way: rooms know no hub, the hub knows no sockets, and so on.
#[test]
fn imports_point_one_way() {
    // Whoever is in a folder or file of the first column imports nothing of the second.
    const RULES: [(&str, &[&str]); 9] = [
        (
            "pattern/",
            &["hub", "socket", "reactor", "shares", "inline", "background", "inproc", "config"],
        ),
        ("route/", &["hub", "socket", "pattern", "frame", "message", "wire", "options"]),
        ("wire/", &["hub", "socket", "pattern", "route", "message", "options"]),
        ("hub/", &["socket", "reactor", "shares", "inline", "background", "config"]),
        ("inproc/", &["hub", "socket", "reactor", "shares", "inline", "background"]),
        ("options/", &["hub", "socket", "reactor", "pattern"]),
        ("config.rs", &["hub", "socket", "reactor", "inline", "background"]),
        ("reactor.rs", &["socket", "shares", "inline", "background"]),
        ("shares.rs", &["socket", "reactor", "inline", "background"]),
    ];
    let mut upward = Vec::new();
    for (name, lines) in files() {
        let Some((_, forbidden)) = RULES.iter().find(|(prefix, _)| name.starts_with(prefix)) else {
            continue;
        };
        for (number, module) in imports(&lines) {
            if forbidden.contains(&module.as_str()) {
                upward.push(format!("{name}:{number}: crate::{module}"));
            }
        }
    }
    assert!(upward.is_empty(), "imports that point upward:\n{}", upward.join("\n"));
}

/// The modules of this crate that a file names, with the line: `use crate::{..}` and `crate::module` anywhere in code.
fn imports(lines: &[String]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut depth = None;
    let word = |text: &str| -> String {
        text.trim().chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect()
    };
    for (number, line) in code(lines) {
        if let Some(open) = &mut depth {
            // The modules are at the first level of the braces.
            if *open == 1 {
                found.push((number, word(line)));
            }
            *open += line.matches('{').count() as i32 - line.matches('}').count() as i32;
            if *open <= 0 {
                depth = None;
            }
            continue;
        }
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            if let Some(list) = rest.strip_prefix('{') {
                match list.split_once('}') {
                    Some((list, _)) => found.extend(list.split(',').map(|it| (number, word(it)))),
                    None => depth = Some(1 + list.matches('{').count() as i32),
                }
            } else {
                found.push((number, word(rest)));
            }
        }
    }
    found
}

#[test]
fn the_test_itself_sees_imports() {
    let lines: Vec<String> = [
        "use crate::{",
        "    hub::{Hub, SocketKey},",
        "    error::Error,",
        "};",
        "use crate::route::PipeId; // crate::comment",
        "fn f(x: crate::message::Message) {}",
        "use crate::{frame::Frame, pattern};",
    ]
    .map(str::to_owned)
    .to_vec();
    let modules: Vec<String> = imports(&lines).into_iter().map(|(_, module)| module).collect();
    assert_eq!(modules, ["hub", "error", "", "route", "message", "frame", "pattern"]);
}
