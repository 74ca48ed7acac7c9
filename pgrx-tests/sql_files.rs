//! Checks the scripts of the extensions.

#[cfg(test)]
mod tests {
    /// Postgres replaces `@extschema@`, `@extowner@` and `@extschema:name@` everywhere in a script,
    /// including comments. If the name of a schema contained a newline, the text behind it would
    /// leave the comment and run as a statement, with the rights of the superuser who creates the
    /// extension.
    #[test]
    fn comments_hold_no_token_that_postgres_replaces() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
        let mut scripts = 0;
        let directories = [directory.clone(), directory.join("upgrade")];
        let entries = directories
            .iter()
            .flat_map(|d| std::fs::read_dir(d).unwrap());
        for entry in entries {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "sql") {
                continue;
            }
            let script = std::fs::read_to_string(&path).unwrap();
            scripts += 1;
            assert!(
                !script.contains("/*"),
                "{path:?}: look for block comments too"
            );
            for line in script.lines() {
                let comment = line.split_once("--").map_or("", |(_, comment)| comment);
                assert!(!comment.contains("@ext"), "{path:?}: {line}");
            }
        }
        assert!(scripts > 5);
    }
}
