//! Names of files in a tree of git.

/// Why a name in a tree is none of a file of ours. git's own folder is recognised by every name that some file system
/// takes for it: by case, by Windows' short form, and by what HFS+ does not see.
pub fn name_fault(name: &[u8]) -> Option<&'static str> {
    let Ok(text) = std::str::from_utf8(name) else { return Some("has a name that is not UTF-8") };
    if text.is_empty() || text == "." || text == ".." {
        return Some("has a name that leads elsewhere");
    }
    if text.len() > 255 {
        return Some("has a name that is too long");
    }
    if text.chars().any(|c| c.is_control() || c == '\\' || c == '/') {
        return Some("has a name with a character that no file should have");
    }
    let unseen = |c: &char| !matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    let plain: String = text.chars().filter(unseen).collect::<String>().to_lowercase();
    let plain = plain.split(':').next().unwrap_or_default().trim_end_matches(['.', ' ']);
    (plain == ".git" || plain == "git~1").then_some("is named as git's own folder")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_gits_own_folder_are_seen_through() {
        for name in [".git", ".GIT", ".Git.", ".git ", "git~1", "GIT~1", ".g\u{200c}it", ".git:x"] {
            assert_eq!(name_fault(name.as_bytes()), Some("is named as git's own folder"), "{name:?}");
        }
        for name in [".gitignore", ".github", "git", "-rf", "a b", ".gitattributes"] {
            assert_eq!(name_fault(name.as_bytes()), None, "{name:?}");
        }
    }
}
