//! What a cluster is: the cluster repository, validated, and the words that head and nodes exchange.
//!
//! Nothing here waits, listens or keeps time: every type is plain data that the other crates share.

pub mod agent;
pub mod api;
pub mod audit;
pub mod boot_set;
pub mod ca;
pub mod desired;
pub mod digits;
pub mod engine;
pub mod firewall;
pub mod hands;
pub mod inventory;
pub mod names;
pub mod node_set;
pub mod repository;
pub mod said;
pub mod section;
pub mod snapshot;
pub mod source;
pub mod subject;
pub mod timeline;
