//! Tests that a room imports the rooms that `ROOMS` lists for it and no others. Imports are found in the source: paths that
//! begin with `crate`, or with enough `super` to leave the room.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::ROOMS;

/// The rooms that are crates.
const CRATES: [&str; 6] = ["memory", "cpu", "vector", "sweep", "image", "model"];

/// The tokens of a path, and of a group of paths in braces.
#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    /// `::`
    PathSeparator,
    Open,
    Close,
    Comma,
    Other,
}

/// The tokens of a source, without its comments. A string or a character literal is [`Token::Other`].
fn tokens(source: &str) -> Vec<Token> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(len) = literal(rest) {
            tokens.push(Token::Other);
            len
        } else if is_word(c) {
            let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..len].to_owned()));
            len
        } else if rest.starts_with("::") {
            tokens.push(Token::PathSeparator);
            2
        } else {
            match c {
                '{' => tokens.push(Token::Open),
                '}' => tokens.push(Token::Close),
                ',' => tokens.push(Token::Comma),
                _ if c.is_whitespace() => {}
                _ => tokens.push(Token::Other),
            }
            c.len_utf8()
        };
        rest = &rest[len..];
    }
    tokens
}

/// The length of the string or character literal that the source begins with; `None` if it begins with neither.
fn literal(source: &str) -> Option<usize> {
    let prefix = source.find(|c| !"bcr".contains(c))?;
    let (letters, quoted) = source.split_at(prefix);
    let hashes = quoted.find(|c| c != '#')?;
    if letters.contains('r') && quoted[hashes..].starts_with('"') {
        let end = format!("\"{}", &quoted[..hashes]);
        let from = prefix + hashes + 1;
        return Some(from + source[from..].find(&end)? + end.len());
    }
    let quote = quoted.chars().next().filter(|c| "'\"".contains(*c))?;
    // `'a` is a lifetime, unless a quote follows.
    let is_character = quoted[1..].starts_with('\\') || quoted.chars().nth(2) == Some('\'');
    if quote == '\'' && !is_character {
        return None;
    }
    let mut escaped = false;
    for (at, c) in quoted.char_indices().skip(1) {
        if c == quote && !escaped {
            return Some(prefix + at + 1);
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

/// The names in the crate's root that the source of a module refers to. The module lies `depth` levels below the root.
fn names_in_root(source: &str, depth: usize) -> BTreeSet<String> {
    let tokens = tokens(source);
    let mut found = BTreeSet::new();
    // Modules within the file: how many braces were open where each began.
    let mut inner = Vec::new();
    let mut braces = 0usize;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Open => {
                if let [.., Token::Word(word), Token::Word(_)] = &tokens[..at]
                    && word == "mod"
                {
                    inner.push(braces);
                }
                braces += 1;
            }
            Token::Close => {
                braces -= 1;
                inner.pop_if(|opened| *opened == braces);
            }
            Token::Word(_) if at == 0 || tokens[at - 1] != Token::PathSeparator => {
                follow(&tokens[at..], depth + inner.len(), None, &mut found);
            }
            _ => {}
        }
    }
    found
}

/// Follows a path, or each path of a group in braces, and returns the number of tokens followed. `place` is the
/// depth of the module that the path has reached, 0 for the root; it is `None` at the path's beginning, which lies
/// in a module of the depth `deep`.
fn follow(
    tokens: &[Token],
    deep: usize,
    place: Option<usize>,
    found: &mut BTreeSet<String>,
) -> usize {
    let next = match (tokens.first(), place) {
        (Some(Token::Word(word)), _) if word == "super" => place.unwrap_or(deep).checked_sub(1),
        (Some(Token::Word(word)), _) if word == "self" => Some(place.unwrap_or(deep)),
        (Some(Token::Word(word)), None) if word == "crate" => Some(0),
        (Some(Token::Word(word)), Some(0)) => {
            found.insert(word.clone());
            None
        }
        (Some(Token::Open), Some(place)) => {
            let (mut at, mut open, mut begins) = (1, 1, true);
            while at < tokens.len() && open > 0 {
                if std::mem::take(&mut begins) && tokens[at] != Token::Close {
                    at += follow(&tokens[at..], deep, Some(place), found);
                    continue;
                }
                match tokens[at] {
                    Token::Open => open += 1,
                    Token::Close => open -= 1,
                    Token::Comma => begins = open == 1,
                    _ => {}
                }
                at += 1;
            }
            return at;
        }
        _ => None,
    };
    match (next, tokens.get(1)) {
        (Some(place), Some(Token::PathSeparator)) => {
            2 + follow(&tokens[2..], deep, Some(place), found)
        }
        // The path has named what it imports from the root, or it does not lead to the root.
        _ => 1,
    }
}

/// The source files of a room, each with the depth of its module below the root.
fn files(room: &str) -> Vec<(PathBuf, usize)> {
    fn collect(directory: &Path, depth: usize, files: &mut Vec<(PathBuf, usize)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, depth + 1, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let own = usize::from(path.file_name().unwrap() != "mod.rs");
                files.push((path, depth + own));
            }
        }
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (file, directory) = (source.join(format!("{room}.rs")), source.join(room));
    let mut files = Vec::new();
    if file.is_file() {
        files.push((file, 1));
    }
    if directory.is_dir() {
        collect(&directory, 1, &mut files);
    }
    files
}

#[test]
fn rooms_import_what_they_may() {
    for (at, (room, may)) in ROOMS.iter().enumerate() {
        let lower = |name: &&str| ROOMS[at..].iter().all(|(higher, _)| higher != name);
        assert!(may.iter().all(lower), "{room} may import a higher room");
        let mut unused: BTreeSet<&str> = may.iter().copied().collect();
        let files = files(room);
        assert!(!files.is_empty(), "{room} has no files");
        for (file, depth) in files {
            let source = fs::read_to_string(&file).unwrap();
            for token in tokens(&source) {
                let Token::Word(word) = token else { continue };
                let own = word.strip_prefix("photosearch_");
                assert!(
                    !own.is_some_and(|name| CRATES.contains(&name)),
                    "{} names {word}, not the room",
                    file.display()
                );
            }
            for name in names_in_root(&source, depth) {
                assert!(
                    name == *room || may.contains(&name.as_str()),
                    "{} imports {name}",
                    file.display()
                );
                unused.remove(name.as_str());
            }
        }
        assert!(unused.is_empty(), "{room} does not import {unused:?}");
    }
}

#[test]
fn crates_know_no_postgres() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in CRATES {
        let manifest = fs::read_to_string(source.join(room).join("Cargo.toml")).unwrap();
        assert!(!manifest.contains("pgrx"), "{room}");
    }
}

#[test]
fn imports_are_found() {
    let found = |source, depth| names_in_root(source, depth).into_iter().collect::<Vec<_>>();
    assert_eq!(
        found("use crate::a::{b, c}; fn f() { crate::d() }", 2),
        ["a", "d"]
    );
    assert_eq!(
        found(
            "use crate::{a::{b, c}, d as e, self::f, g,}; use super::x;",
            2
        ),
        ["a", "d", "f", "g"]
    );
    assert_eq!(
        found(
            "use super::a; use super::super::b; use super::{super::c, d};",
            2
        ),
        ["b", "c"]
    );
    let inner = "mod m { mod n { use super::super::a; } use super::super::b; } use super::c;";
    assert_eq!(found(inner, 1), ["b", "c"]);
    let none = r##"/* crate::a */ const A: &str = "crate::\"b"; // crate::c
        const B: &str = r#"crate::"d"#; fn f<'a>(x: &'a str) -> char { '"' } use other::crate_::e;"##;
    assert!(found(none, 2).is_empty());
    assert_eq!(found("const A: char = '\\''; use crate::a;", 2), ["a"]);
}
