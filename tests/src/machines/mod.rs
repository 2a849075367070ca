//! Simulated machines with firmware personas, on one wire with the real head.

pub mod dhcp;
pub mod fetch;
pub mod firmware;
pub mod house;
pub mod persona;
pub mod stack;
pub mod wire;
