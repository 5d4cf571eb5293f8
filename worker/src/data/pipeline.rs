//! The reading thread: takes microbatches one after another, decodes on a pool, keeps a few ready.

use super::augment::Element;
use super::rng::CounterRng;
use super::{DataConfig, DataError, Dataset, Geometry};
use crate::data::source::{Broken, Images};
use crate::native::{Upload, alone, pinned};
use image::RgbImage;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tch::{Device, Tensor};

/// Microbatches kept ready.
const AHEAD: usize = 3;
/// Longest wait for one microbatch.
const PATIENCE: Duration = Duration::from_secs(300);

/// Images and labels of a microbatch.
#[derive(Debug)]
pub struct Batch {
    /// `[b, C, H, W]`, FP32, normalised, channels-last in memory; of a loader of raw pixels `[b, H, W, 3]`, 8 bits, until
    /// [`Batch::on`] has brought them to where they are used.
    pub images: Tensor,
    /// `[b]`, 64-bit integers.
    pub labels: Tensor,
    /// Place of the microbatch among those of all ranks.
    pub position: usize,
    /// Images found corrupt on the way that had not been known before.
    pub corrupt: u64,
    /// How raw pixels become images; none: they are images.
    pub(super) raw: Option<Raw>,
}

/// How raw pixels become images: the geometry, and its numbers as a tensor.
#[derive(Debug)]
pub(super) struct Raw {
    geometry: Arc<Geometry>,
    numbers: Tensor,
}

impl Batch {
    /// The same images and labels, which it shares.
    pub(super) fn shallow_clone(&self) -> Batch {
        let (images, labels) = (self.images.shallow_clone(), self.labels.shallow_clone());
        let of = |raw: &Raw| Raw { geometry: raw.geometry.clone(), numbers: raw.numbers.shallow_clone() };
        let raw = self.raw.as_ref().map(of);
        Batch { images, labels, position: self.position, corrupt: 0, raw }
    }

    /// Begins to bring the batch to a device, beside what that computes.
    pub fn upload(self, device: Device) -> Result<Uploading, DataError> {
        let begin = |t: &Tensor| Upload::begin(t, device);
        let numbers = self.raw.as_ref().map(|raw| begin(&raw.numbers)).transpose()?;
        Ok(Uploading { images: begin(&self.images)?, labels: begin(&self.labels)?, numbers, batch: self })
    }

    /// The batch on another device, as normalised images.
    pub fn on(self, device: Device) -> Result<Batch, DataError> {
        self.upload(device)?.arrived()
    }
}

/// A batch on its way to a device.
#[derive(Debug)]
pub struct Uploading {
    images: Upload,
    labels: Upload,
    /// Those that raw pixels are normalised by.
    numbers: Option<Upload>,
    /// As it was read.
    batch: Batch,
}

impl Uploading {
    /// The batch there, as normalised images. What the device computes from now on waits for it; the host does not.
    pub fn arrived(self) -> Result<Batch, DataError> {
        let (images, labels) = (self.images.arrived()?, self.labels.arrived()?);
        let images = match (&self.batch.raw, self.numbers) {
            (Some(raw), Some(numbers)) => raw.geometry.normalised(&images, &numbers.arrived()?)?,
            _ => images,
        };
        Ok(Batch { images, labels, raw: None, ..self.batch })
    }
}

/// So many zeros; an error where there is no memory for them, which would end the process otherwise.
fn zeros<T: Element>(len: usize) -> Result<Vec<T>, DataError> {
    let mut zeros = Vec::new();
    let mib = ((len * size_of::<T>()) >> 20).max(1);
    zeros.try_reserve_exact(len).map_err(|_| DataError::Memory { mib })?;
    zeros.resize(len, T::default());
    Ok(zeros)
}

/// One microbatch to read.
pub(super) struct Request {
    pub position: usize,
    /// Indices of samples.
    pub samples: Vec<u32>,
}

/// What is done with samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Augmented, keyed by epoch and sample; a corrupt image is replaced by the next sound one.
    Train { epoch: u32 },
    /// Centre crop; a corrupt image is left out.
    Eval,
}

/// Corrupt images found so far, by index.
pub(super) type Corrupt = Arc<Mutex<BTreeSet<u32>>>;

struct Reader {
    dataset: Arc<Dataset>,
    config: DataConfig,
    how: Use,
    corrupt: Corrupt,
    /// Whether pixels stay as they are.
    raw: bool,
}

impl Reader {
    fn known(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        self.corrupt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a corrupt image; an error once there are too many.
    fn note(&self, index: u32, why: &Broken, images: &dyn Images) -> Result<u64, DataError> {
        let mut known = self.known();
        if !known.insert(index) {
            return Ok(0);
        }
        let last = format!("{}: {why}", images.name(index as usize));
        let (count, limit) = (known.len(), self.config.corrupt_limit(images.len()));
        if count > limit {
            return Err(match why {
                Broken::Corrupt(_) => DataError::Corrupt { count, limit, last },
                Broken::Unread(_) => DataError::Unread { count, limit, last },
            });
        }
        tracing::warn!("corrupt image left out ({count} of at most {limit}): {last}");
        Ok(1)
    }

    fn transform<T: Element>(&self, image: &RgbImage, sample: u32, out: &mut [T]) -> Result<(), String> {
        match self.how {
            Use::Eval => self.config.geometry.evaluated(image, out),
            Use::Train { epoch } => {
                let mut rng = CounterRng::new(self.config.seed, [epoch.into(), sample.into()]);
                self.config.geometry.train(image, &mut rng, out)
            }
        }
    }

    /// Reads a sample into `out`; returns its label (none if it is left out) and how many new corrupt ones were met.
    fn sample<T: Element>(&self, sample: u32, out: &mut [T]) -> Result<(Option<i64>, u64), DataError> {
        let images = &*self.dataset.images;
        let (mut index, mut found) = (sample, 0);
        loop {
            let read = images
                .image(index as usize)
                .and_then(|image| self.transform(&image, sample, out).map_err(Broken::Corrupt));
            match (read, self.how) {
                (Ok(()), _) => return Ok((Some(images.label(index as usize) as i64), found)),
                (Err(why), how) => {
                    found += self.note(index, &why, images)?;
                    if how == Use::Eval {
                        return Ok((None, found));
                    }
                }
            }
            // The limit ends this loop at the latest; within it the next sound image is the same on every rank.
            index = (index + 1) % images.len() as u32;
            if index == sample {
                return Err(DataError::Loader("found no readable image".into()));
            }
        }
    }

    fn read(&self, request: &Request) -> Result<Batch, DataError> {
        let geometry = &self.config.geometry;
        match self.raw {
            false => {
                let batch = self.read_as::<f32>(request)?;
                Ok(Batch { images: batch.images.f_permute([0, 3, 1, 2])?, ..batch })
            }
            true => {
                let batch = self.read_as::<u8>(request)?;
                let (images, labels) = (pinned(batch.images)?, pinned(batch.labels)?);
                let numbers = pinned(geometry.numbers()?)?;
                let raw = Some(Raw { geometry: Arc::new(geometry.clone()), numbers });
                Ok(Batch { images, labels, raw, ..batch })
            }
        }
    }

    /// A microbatch whose images are elements of one type, `[b, H, W, C]`.
    fn read_as<T: Element>(&self, request: &Request) -> Result<Batch, DataError> {
        let g = &self.config.geometry;
        let (side, channels) = (g.crop, T::channels(g));
        let len = side * side * channels;
        let mut pixels = zeros::<T>(request.samples.len() * len)?;
        let read: Vec<(Option<i64>, u64)> = pixels
            .par_chunks_mut(len)
            .zip(&request.samples)
            .map(|(out, &sample)| self.sample(sample, out))
            .collect::<Result<_, _>>()?;
        let corrupt = read.iter().map(|r| r.1).sum();
        let labels: Vec<i64> = read.iter().filter_map(|r| r.0).collect();
        if labels.len() < read.len() {
            let kept: Vec<&[T]> =
                pixels.chunks(len).zip(&read).filter(|(_, r)| r.0.is_some()).map(|(p, _)| p).collect();
            pixels = kept.concat();
        }
        let (n, side) = (labels.len() as i64, side as i64);
        Ok(Batch {
            images: Tensor::f_from_slice(&pixels)?.f_view([n, side, side, channels as i64])?,
            labels: Tensor::f_from_slice(&labels)?,
            position: request.position,
            corrupt,
            raw: None,
        })
    }
}

/// Microbatches in order, read ahead by a thread of its own. Dropping it ends the thread.
pub(super) struct Pipeline {
    /// What the thread sends: microbatches, then `None` for the end. A thread that is gone without having said the end
    /// is an error.
    batches: Receiver<Result<Option<Batch>, DataError>>,
    /// None once it was asked what ended it.
    thread: Option<JoinHandle<()>>,
    /// The end was said.
    ended: bool,
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| s.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it did not say why".into())
}

impl Pipeline {
    pub fn start(
        dataset: Arc<Dataset>,
        config: DataConfig,
        (how, raw): (Use, bool),
        corrupt: Corrupt,
        pool: Arc<rayon::ThreadPool>,
        requests: impl Iterator<Item = Request> + Send + 'static,
    ) -> Result<Self, DataError> {
        let (send, batches) = sync_channel(AHEAD);
        let reader = Reader { dataset, config, how, corrupt, raw };
        let work = move || {
            for request in requests {
                let batch = pool.install(|| reader.read(&request));
                let failed = batch.is_err();
                if send.send(batch.map(Some)).is_err() || failed {
                    return;
                }
            }
            // Nobody listens where the loader was dropped before its end.
            let _ = send.send(Ok(None));
        };
        let thread = std::thread::Builder::new().name("loader".into()).spawn(work);
        let thread = thread.map_err(|e| DataError::Loader(format!("cannot start a thread: {e}")))?;
        Ok(Self { batches, thread: Some(thread), ended: false })
    }

    /// Why the thread is gone although it did not say the end.
    fn gone(&mut self) -> DataError {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => DataError::Panicked(words(&*panic)),
            Some(Ok(())) | None => DataError::Loader("had failed before; its first error says why".into()),
        }
    }

    /// The next microbatch; none after the last.
    pub fn next(&mut self) -> Result<Option<Batch>, DataError> {
        if self.ended {
            return Ok(None);
        }
        match self.batches.recv_timeout(PATIENCE) {
            Ok(batch) => {
                self.ended = matches!(batch, Ok(None));
                batch
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.gone()),
            Err(RecvTimeoutError::Timeout) => Err(DataError::Loader(format!(
                "has waited {} s for one batch: does the file system of the images answer?",
                PATIENCE.as_secs()
            ))),
        }
    }
}

/// A pool of decode threads.
pub(super) fn pool(threads: usize) -> Result<Arc<rayon::ThreadPool>, DataError> {
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1));
    let built = built.thread_name(|i| format!("decode{i}")).start_handler(|_| alone());
    built.build().map(Arc::new).map_err(|e| DataError::Loader(format!("cannot start decode threads: {e}")))
}
