//! The addresses that DHCP lent, in the store.

use std::io;
use std::net::Ipv4Addr;

use bramble_netboot::dhcp::{Lease, LeaseStore};
use bramble_store::{OnLoss, Record, Store, Table};

use crate::error::Error;

/// Address → lease. Whoever has one asks again before it ends.
pub(crate) struct LentAddresses;

impl Record for LentAddresses {
    type Key = Ipv4Addr;
    type Value = Lease;
    const TABLE: Table = Table::new("leases");
    const FORM: u32 = 1;
    const WHAT: &'static str = "the lease of";
    const ON_LOSS: OnLoss = OnLoss::BeginAnew;
}

/// # Errors
/// When the store cannot be read.
pub(crate) fn all(store: &Store) -> Result<Vec<Lease>, Error> {
    Ok(store.blocking().read_all::<LentAddresses>()?.readable.into_values().collect())
}

/// Where DHCP keeps what it lends.
pub(crate) struct Leases(pub(crate) Store);

impl LeaseStore for Leases {
    fn store(&self, leases: &[Lease]) -> io::Result<()> {
        let leases: Vec<_> = leases.iter().map(|lease| (lease.address, Some(lease))).collect();
        self.0.blocking().note::<LentAddresses>(&leases).map_err(io::Error::other)
    }
}
