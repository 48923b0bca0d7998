//! What a durable append costs at best: a segment that was written before, around the page cache, by io_uring.
//!
//! A group is one write of many records and one `fdatasync`; without a group each record has its own of both. The
//! records are copied into the group's buffer and not checksummed. CPU is the whole process', since `fdatasync` runs on
//! a worker thread of the kernel's.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use glommio::io::{DmaFile, OpenOptions};
use postrail_schema::limits::{BLOCK_BYTES, SEGMENT_BYTES};

use super::cpu::{self, Cost, Meter};
use super::executor;

/// Appends of `group` records of `bytes` octets at a time, in `folder`; the cost is that of one record.
pub(super) fn append(time: Duration, folder: &Path, bytes: usize, group: usize) -> Result<Cost> {
    let folder = tempfile::Builder::new().prefix("bench-limit-").tempdir_in(folder);
    let folder = folder.context("no temporary folder could be made; choose another by --folder")?;
    let path = folder.path().join("segment");
    recycle(&path).with_context(|| format!("cannot write {}", path.display()))?;
    executor(0)
        .spawn(move || async move { run(&path, time, bytes, group).await })
        .and_then(glommio::ExecutorJoinHandle::join)
        .map_err(|error| anyhow!("the executor failed: {error}"))?
}

/// Makes a segment whose blocks were all written before, as one that is used again.
fn recycle(path: &Path) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let piece = vec![1; 1 << 20];
    for _ in 0..SEGMENT_BYTES / (1 << 20) {
        file.write_all(&piece)?;
    }
    file.sync_all()
}

async fn run(path: &Path, time: Duration, bytes: usize, group: usize) -> Result<Cost> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).dma_open(path).await;
    let file = file.map_err(|error| anyhow!("the file system has no O_DIRECT; choose another by --folder: {error}"))?;
    let record = vec![0x5a; bytes];
    let batch = (bytes * group).next_multiple_of(BLOCK_BYTES);
    let mut at = 0;
    let mut costs = Vec::new();
    for slice in cpu::slices(time) {
        let meter = Meter::start();
        let mut records = 0;
        while !meter.has_run(slice) {
            write_group(&file, at, batch, &record, group).await?;
            records += group as u64;
            at += batch as u64;
            if at + batch as u64 > SEGMENT_BYTES {
                at = 0;
            }
        }
        costs.push(meter.each(records));
    }
    file.close().await.map_err(|error| anyhow!("closing the segment failed: {error}"))?;
    Ok(cpu::median(costs))
}

async fn write_group(file: &DmaFile, at: u64, batch: usize, record: &[u8], group: usize) -> Result<()> {
    let mut buffer = file.alloc_dma_buffer(batch);
    for place in buffer.as_bytes_mut().chunks_mut(record.len()).take(group) {
        place.copy_from_slice(&record[..place.len()]);
    }
    let written = file.write_at(buffer, at).await.map_err(|error| anyhow!("writing failed: {error}"))?;
    if written < batch {
        return Err(anyhow!("{written} of {batch} octets were written"));
    }
    file.fdatasync().await.map_err(|error| anyhow!("fdatasync failed: {error}"))
}
