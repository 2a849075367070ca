//! What a person does about an engine, in the words of its own tools.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    /// The disk of its data is full.
    pub full_disk: &'static str,
    /// It refuses what it is asked.
    pub refuses: &'static str,
}

impl Advice {
    /// Of a node that has told of no engine.
    pub const OF_ANY: Advice = Advice {
        full_disk: "remove what is not used, or give it a larger disk or more memory",
        refuses: "the sentence is the engine's own; its journal on the node says more",
    };
}

#[cfg(test)]
pub(crate) mod trust;
