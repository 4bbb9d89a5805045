//! NVSwitch partitions. The emulated machine's switches carry no traffic, so there is nothing to bring up:
//! only the id is checked, against the table that Fabric Manager has for this machine, and said.

use crate::edge::{EdgeError, Result};

/// The highest partition id of a DGX-2: 0 is all GPUs, 17 to 32 are single ones.
const LAST_PARTITION: u32 = 32;

/// Would bring up a partition.
pub fn activate(partition: u32) -> Result<()> {
    check(partition)?;
    tracing::info!(partition, "no fabric is driven: partition taken as up");
    Ok(())
}

/// Would take down a partition.
pub fn deactivate(partition: u32) -> Result<()> {
    check(partition)?;
    tracing::info!(partition, "no fabric is driven: partition taken as down");
    Ok(())
}

fn check(partition: u32) -> Result<()> {
    if partition <= LAST_PARTITION {
        Ok(())
    } else {
        Err(EdgeError::new(format!(
            "there is no fabric partition `{partition}`: ids go from 0 to {LAST_PARTITION}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_partitions_of_the_table_exist() {
        for partition in 0..=32 {
            activate(partition).unwrap();
            deactivate(partition).unwrap();
        }
        for partition in [33, u32::MAX] {
            assert!(activate(partition).is_err() && deactivate(partition).is_err());
        }
    }
}
