//! The rules of `[boot.NAME]`, and of nodes that name one.

use minijinja::Environment;

use super::*;

/// What templates know without being told: minijinja's own functions.
const BUILT_IN: [&str; 4] = ["debug", "dict", "namespace", "range"];

impl Rules<'_> {
    pub(super) fn boots(&mut self, boots: &BTreeMap<String, written::BootSection>) -> BTreeMap<Name, Profile> {
        let mut found = BTreeMap::new();
        for (name, section) in boots {
            let key = |last: &'static str| ["boot", name.as_str(), last];
            let starts = self.starts(name, section);
            let mut folder = |last: &'static str, path: &Option<String>| {
                path.as_deref().and_then(|path| self.inside(&key(last), path, Expect::Folder))
            };
            let (files, templates) = (folder("files", &section.files), folder("templates", &section.templates));
            self.template(&key("cmdline"), "the command line", section.cmdline.as_deref().unwrap_or_default());
            for path in section
                .templates
                .iter()
                .filter(|_| templates.is_some())
                .flat_map(|folder| self.tree.files(Path::new(folder)))
            {
                // What is not text is served to nobody: a node that asks for it is told so.
                if let Some(text) = self.tree.read(&path).ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
                    let shown = path.display().to_string();
                    self.template(&key("templates"), &format!("`{shown}`"), &text);
                }
            }
            let words =
                [("once", HandOff::Once), ("until-done", HandOff::UntilDone), ("every-boot", HandOff::EveryBoot)];
            let hand_off = self.word(&key("hand_off"), section.hand_off.as_deref(), "hand-off", &words);
            if let (Some(name), Some(starts)) = (self.name(&["boot", name], name), starts) {
                found.insert(name, Profile { starts, files, templates, hand_off });
            }
        }
        found
    }

    /// A template can be read, and knows all its words.
    fn template(&mut self, key: &[&str], what: &str, text: &str) {
        let environment = Environment::new();
        let template = match environment.template_from_str(text) {
            Ok(template) => template,
            Err(error) => {
                let line = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
                let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
                self.wrong(key, format!("{what}{line}: {detail}"));
                return;
            }
        };
        let mut unknown: Vec<String> = template.undeclared_variables(false).into_iter().collect();
        unknown.retain(|word| !TEMPLATE_WORDS.contains(&word.as_str()) && !BUILT_IN.contains(&word.as_str()));
        unknown.sort();
        for word in unknown {
            let message = format!("{what} uses `{word}`, which no template knows");
            let problem = self.source.problem(key, message).near(&word, &TEMPLATE_WORDS);
            self.problems.push(problem);
        }
    }

    fn starts(&mut self, name: &str, section: &written::BootSection) -> Option<Starts> {
        match (&section.kernel, &section.efi) {
            (Some(kernel), None) => {
                let kernel = self.boot_file(&["boot", name, "kernel"], kernel);
                let initrds = section.initrd.as_slice().iter();
                let initrds = initrds.filter_map(|path| self.boot_file(&["boot", name, "initrd"], path)).collect();
                let cmdline = section.cmdline.clone().unwrap_or_default();
                if cmdline.contains(['\n', '\r']) {
                    self.wrong(&["boot", name, "cmdline"], "expected one line");
                }
                Some(Starts::Kernel { kernel: kernel?, initrds, cmdline })
            }
            (None, Some(efi)) => {
                for (key, written) in
                    [("initrd", !section.initrd.as_slice().is_empty()), ("cmdline", section.cmdline.is_some())]
                {
                    if written {
                        self.wrong(&["boot", name, key], "has no effect beside `efi`").help =
                            Some("remove it, or name a `kernel`".into());
                    }
                }
                self.inside(&["boot", name, "efi"], efi, Expect::File).map(Starts::Efi)
            }
            _ => {
                self.wrong(&["boot", name], "expected either `kernel` or `efi`").help =
                    Some("name what the node starts: `kernel = \"boot/linux\"`, or `efi = \"boot/tool.efi\"`".into());
                None
            }
        }
    }

    /// A file of the repository, or a URL that loaders can fetch.
    fn boot_file(&mut self, key: &[&str], text: &str) -> Option<crate::repository::BootFile> {
        if text.starts_with("http://") || text.starts_with("https://") {
            if text.contains(char::is_whitespace) {
                self.wrong(key, format!("`{text}`: a URL has no blanks"));
            }
            return Some(crate::repository::BootFile::Url(text.to_owned()));
        }
        self.inside(key, text, Expect::File).map(crate::repository::BootFile::File)
    }

    /// The profile that a node names. Such a node has no agent, so it can have no part in the engine.
    pub(super) fn node_boot(
        &mut self,
        name: &str,
        node: &written::NodeSection,
        has_engine: bool,
        boots: &BTreeMap<String, written::BootSection>,
    ) -> Option<Name> {
        let boot = node.boot.as_deref()?;
        let key = ["nodes", name, "boot"];
        if !boots.contains_key(boot) {
            let known: Vec<&str> = boots.keys().map(String::as_str).collect();
            let problem = self.source.problem(&key, format!("there is no `[boot.{boot}]`")).near(boot, &known);
            self.problems.push(problem);
        } else if has_engine {
            self.wrong(&key, format!("`{name}` runs another system, and its role has a part in the engine")).help =
                Some("give it a role with `engine = \"none\"`".into());
        }
        boot.parse().ok()
    }
}
