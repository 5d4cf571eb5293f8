//! Loaders: this rank's microbatches of an epoch, and its shard of an evaluation.

use super::pipeline::{Corrupt, Pipeline, Request, Use, pool};
use super::{Batch, DataConfig, DataError, Dataset, permutation};
use std::collections::VecDeque;
use std::sync::Arc;

/// Microbatches for training.
pub struct TrainLoader {
    dataset: Arc<Dataset>,
    config: DataConfig,
    corrupt: Corrupt,
    pool: Arc<rayon::ThreadPool>,
    epoch: Option<Pipeline>,
    ring: Option<Ring>,
    raw: bool,
}

/// Microbatches that are handed out again and again.
struct Ring {
    size: usize,
    batches: VecDeque<Batch>,
}

impl TrainLoader {
    /// A loader of `dataset`; it must hold at least one global batch.
    ///
    /// # Errors
    /// When it does not, or the settings cannot be used ([`DataConfig::check`]).
    pub fn new(dataset: Arc<Dataset>, config: DataConfig) -> Result<Self, DataError> {
        config.check()?;
        let (images, global) = (dataset.len(), config.sharding.global_batch());
        if images < global {
            let fits = images / config.sharding.microbatches;
            return Err(DataError::TooFew { images, global, fits });
        }
        let pool = pool(config.threads)?;
        Ok(Self { dataset, config, corrupt: Corrupt::default(), pool, epoch: None, ring: None, raw: false })
    }

    /// The same loader, which reads `microbatches` of its first epoch and hands those out again and again, without an end:
    /// for timing what is done with them, while nothing is read.
    #[must_use]
    pub fn repeating(self, microbatches: usize) -> Self {
        Self { ring: Some(Ring { size: microbatches.max(1), batches: VecDeque::new() }), ..self }
    }

    /// The same loader, whose batches are raw pixels, a quarter of the bytes, until [`Batch::on`] makes images of them on the
    /// device that they are used on: for GPUs.
    #[must_use]
    pub fn raw(self) -> Self {
        Self { raw: true, ..self }
    }

    /// Global batches of an epoch.
    pub fn steps(&self) -> u64 {
        self.config.sharding.steps(self.dataset.len())
    }

    /// Begins an epoch at a step of it.
    pub fn start_epoch(&mut self, epoch: u32, from_step: u64) -> Result<(), DataError> {
        if self.ring.as_ref().is_some_and(|ring| !ring.batches.is_empty()) {
            return Ok(());
        }
        self.begin(epoch, from_step)?;
        if let (Some(ring), Some(read)) = (&mut self.ring, &mut self.epoch) {
            while ring.batches.len() < ring.size
                && let Some(batch) = read.next()?
            {
                ring.batches.push_back(batch);
            }
            // Ends the threads that read ahead.
            self.epoch = None;
        }
        Ok(())
    }

    fn begin(&mut self, epoch: u32, from_step: u64) -> Result<(), DataError> {
        let order = permutation(self.config.seed, epoch, self.dataset.len());
        let sharding = self.config.sharding;
        let requests =
            (from_step..self.steps()).flat_map(move |step| sharding.step(step)).map(move |range| {
                let position = range.start / sharding.batch % sharding.microbatches;
                Request { position, samples: order[range].to_vec() }
            });
        let (dataset, config) = (self.dataset.clone(), self.config.clone());
        let (corrupt, pool) = (self.corrupt.clone(), self.pool.clone());
        self.epoch = Some(Pipeline::start(
            dataset,
            config,
            (Use::Train { epoch }, self.raw),
            corrupt,
            pool,
            requests,
        )?);
        Ok(())
    }

    /// The next microbatch of this rank; none at the end of the epoch.
    #[allow(clippy::should_implement_trait)] // it can fail
    pub fn next(&mut self) -> Result<Option<Batch>, DataError> {
        let none = || DataError::Loader("was asked for a batch before an epoch was begun".into());
        if let Some(ring) = &mut self.ring {
            let batch = ring.batches.pop_front().ok_or_else(none)?;
            let again = batch.shallow_clone();
            ring.batches.push_back(batch);
            return Ok(Some(again));
        }
        self.epoch.as_mut().ok_or_else(none)?.next()
    }
}

/// Batches for evaluation: sample i belongs to rank `i % world`.
pub struct EvalLoader {
    batches: Pipeline,
}

impl EvalLoader {
    /// This rank's shard of `dataset`, or of `limit` of its images, evenly spread: a folder's first are of one class.
    ///
    /// # Errors
    /// When the settings cannot be used ([`DataConfig::check`]), or no thread can be started.
    pub fn new(dataset: Arc<Dataset>, config: DataConfig, limit: Option<usize>) -> Result<Self, DataError> {
        config.check()?;
        let s = config.sharding;
        let count = limit.unwrap_or(usize::MAX).min(dataset.len());
        let mine: Vec<u32> =
            s.place().dealt(count).map(|i| (i as u64 * dataset.len() as u64 / count as u64) as u32).collect();
        let chunks: Vec<Vec<u32>> = mine.chunks(s.batch).map(<[u32]>::to_vec).collect();
        let requests =
            chunks.into_iter().enumerate().map(|(position, samples)| Request { position, samples });
        Self::start(dataset, config, requests)
    }

    /// This rank's part of the calibration: the first `images` of epoch 0's order, unaugmented, in whole
    /// microbatches; microbatch p belongs to rank `p % world`. Returns how many there are over all ranks.
    pub fn calibration(
        dataset: Arc<Dataset>,
        config: DataConfig,
        images: usize,
    ) -> Result<(Self, usize), DataError> {
        config.check()?;
        let s = config.sharding;
        let total = images.div_ceil(s.batch).min(dataset.len() / s.batch).max(1);
        let order = permutation(config.seed, 0, dataset.len());
        let requests = s.place().dealt(total).map(move |position| {
            let samples = order.iter().skip(position * s.batch).take(s.batch).copied().collect();
            Request { position, samples }
        });
        Ok((Self::start(dataset, config, requests)?, total))
    }

    fn start(
        dataset: Arc<Dataset>,
        config: DataConfig,
        requests: impl Iterator<Item = Request> + Send + 'static,
    ) -> Result<Self, DataError> {
        let pool = pool(config.threads)?;
        let batches =
            Pipeline::start(dataset, config, (Use::Eval, false), Corrupt::default(), pool, requests)?;
        Ok(Self { batches })
    }

    /// The next batch; none after the last. A batch whose images are all corrupt is empty.
    #[allow(clippy::should_implement_trait)] // it can fail
    pub fn next(&mut self) -> Result<Option<Batch>, DataError> {
        self.batches.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Augmentation, DataSettings};
    use crate::data::{Geometry, Names, Sharding, Split, Wanted};
    use tch::Tensor;

    fn config(rank: usize, world: usize, threads: usize) -> DataConfig {
        let data = DataSettings {
            crop_size: 16,
            resize_short: 16,
            augmentation: Augmentation::PadCrop,
            ..DataSettings::default()
        };
        DataConfig {
            geometry: Geometry::new(&data, 3),
            sharding: Sharding { rank, world, microbatches: 4, batch: 5 },
            seed: 11,
            threads,
            max_corrupt: None,
        }
    }

    fn dataset(root: &str, split: Split) -> Arc<Dataset> {
        Arc::new(open(root, split, if root == "synthetic" { 4 } else { 2 }))
    }

    fn open(root: &str, split: Split, classes: usize) -> Dataset {
        Dataset::open(split, &wanted(root, classes)).unwrap()
    }

    fn wanted(root: &str, classes: usize) -> Wanted<'_> {
        Wanted {
            root,
            names: Names::Count(classes),
            side: 16,
            synthetic_images: 107,
            val_fraction: 0.0,
            allow_missing_classes: false,
        }
    }

    fn epoch(rank: usize, world: usize, threads: usize, from: u64) -> Vec<(Tensor, Tensor)> {
        let mut loader =
            TrainLoader::new(dataset("synthetic", Split::Train), config(rank, world, threads)).unwrap();
        loader.start_epoch(3, from).unwrap();
        let mut out = Vec::new();
        while let Some(b) = loader.next().unwrap() {
            assert_eq!(b.images.size(), [5, 3, 16, 16]);
            assert_eq!(b.images.stride(), [768, 1, 48, 3]);
            out.push((b.images, b.labels));
        }
        out
    }

    fn equal(a: &(Tensor, Tensor), b: &(Tensor, Tensor)) -> bool {
        a.0.equal(&b.0) && a.1.equal(&b.1)
    }

    #[test]
    fn batches_do_not_depend_on_ranks_threads_or_the_point_of_resumption() {
        let whole = epoch(0, 1, 1, 0);
        assert_eq!(whole.len(), 5 * 4);
        let resumed = epoch(0, 1, 3, 2);
        assert!(whole[8..].iter().zip(&resumed).all(|(a, b)| equal(a, b)) && resumed.len() == 12);
        for rank in 0..2 {
            let half = epoch(rank, 2, 2, 0);
            assert_eq!(half.len(), 10);
            for (i, b) in half.iter().enumerate() {
                assert!(equal(b, &whole[i / 2 * 4 + rank * 2 + i % 2]), "rank {rank} batch {i}");
            }
        }
        let mut loader = TrainLoader::new(dataset("synthetic", Split::Train), config(0, 1, 1)).unwrap();
        loader.start_epoch(4, 0).unwrap();
        let other = loader.next().unwrap().unwrap();
        assert!(!other.images.equal(&whole[0].0));
    }

    #[test]
    fn raw_pixels_become_the_same_images_where_they_are_used() {
        for channels in [3, 4] {
            let of_channels =
                |geometry| DataConfig { geometry: Geometry { channels, ..geometry }, ..config(0, 1, 2) };
            let data = of_channels(config(0, 1, 2).geometry);
            let start = |raw| {
                let loader = TrainLoader::new(dataset("synthetic", Split::Train), data.clone()).unwrap();
                let mut loader = if raw { loader.raw() } else { loader };
                loader.start_epoch(3, 0).unwrap();
                loader
            };
            let (mut raw, mut normalised) = (start(true), start(false));
            for _ in 0..3 {
                let (a, b) = (raw.next().unwrap().unwrap(), normalised.next().unwrap().unwrap());
                assert_eq!((a.images.size(), a.images.kind()), (vec![5, 16, 16, 3], tch::Kind::Uint8));
                let a = a.on(tch::Device::Cpu).unwrap();
                assert_eq!(a.images.size(), [5, channels as i64, 16, 16]);
                assert!(a.images.equal(&b.images) && a.labels.equal(&b.labels));
            }
        }
    }

    #[test]
    fn a_loader_that_repeats_hands_out_its_first_batches_and_reads_no_more() {
        let first = epoch(0, 1, 1, 0);
        let mut loader = TrainLoader::new(dataset("synthetic", Split::Train), config(0, 1, 2)).unwrap();
        assert!(loader.next().is_err());
        loader = loader.repeating(2);
        assert!(loader.next().is_err(), "no epoch was begun");
        loader.start_epoch(3, 0).unwrap();
        assert!(loader.epoch.is_none());
        let mut next = || loader.next().unwrap().map(|b| (b.images, b.labels)).unwrap();
        // More than an epoch has.
        for i in 0..50 {
            assert!(equal(&next(), &first[i % 2]), "batch {i}");
        }
        loader.start_epoch(4, 0).unwrap();
        let again = loader.next().unwrap().unwrap();
        assert!(again.images.equal(&first[0].0));
    }

    #[test]
    fn an_evaluation_counts_every_image_once() {
        for world in [1, 3] {
            let mut count = 0;
            for rank in 0..world {
                let set = dataset("synthetic", Split::Val);
                let mut loader = EvalLoader::new(set, config(rank, world, 1), None).unwrap();
                while let Some(b) = loader.next().unwrap() {
                    count += b.labels.size()[0];
                }
            }
            assert_eq!(count, 107);
        }
        let mut loader = EvalLoader::new(dataset("synthetic", Split::Val), config(0, 1, 1), Some(7)).unwrap();
        assert_eq!(loader.next().unwrap().unwrap().labels.size(), [5]);
        assert_eq!(loader.next().unwrap().unwrap().labels.size(), [2]);
        assert!(loader.next().unwrap().is_none());
    }

    #[test]
    fn calibration_batches_are_shared_out_by_position() {
        let mut seen = Vec::new();
        for rank in 0..3 {
            let set = dataset("synthetic", Split::Train);
            let (mut loader, total) = EvalLoader::calibration(set, config(rank, 3, 1), 31).unwrap();
            assert_eq!(total, 7);
            while let Some(b) = loader.next().unwrap() {
                seen.push(b.position);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
    }

    fn folder(corrupt: usize) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..40 {
            let path = dir.path().join(format!("train/{}/{i:02}.png", if i % 2 == 0 { "a" } else { "b" }));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            if i < corrupt {
                std::fs::write(path, "not a picture").unwrap();
            } else {
                image::RgbImage::new(16, 16).save(path).unwrap();
            }
        }
        dir
    }

    #[test]
    fn a_corrupt_image_is_counted_and_replaced_or_left_out_up_to_the_limit() {
        let dir = folder(1);
        let set = dataset(dir.path().to_str().unwrap(), Split::Train);
        let mut loader = TrainLoader::new(set.clone(), config(0, 1, 2)).unwrap();
        let mut corrupt = 0;
        for epoch in 0..2 {
            loader.start_epoch(epoch, 0).unwrap();
            while let Some(b) = loader.next().unwrap() {
                assert_eq!(b.labels.size(), [5]);
                corrupt += b.corrupt;
            }
        }
        assert_eq!(corrupt, 1, "counted once");
        let mut eval = EvalLoader::new(set, config(0, 1, 1), None).unwrap();
        let (mut images, mut corrupt) = (0, 0);
        while let Some(b) = eval.next().unwrap() {
            images += b.labels.size()[0];
            corrupt += b.corrupt;
        }
        assert_eq!((images, corrupt), (39, 1));

        let dir = folder(3);
        let set = dataset(dir.path().to_str().unwrap(), Split::Train);
        let mut eval = EvalLoader::new(set, config(0, 1, 1), None).unwrap();
        let error = loop {
            match eval.next() {
                Ok(b) => assert!(b.is_some(), "the limit was not kept"),
                Err(e) => break e.to_string(),
            }
        };
        assert!(error.contains("more than the 1") && error.contains(".png"), "{error}");
    }

    /// 40 images, of which one makes its decoder panic.
    struct Trap;

    impl crate::data::source::Images for Trap {
        fn len(&self) -> usize {
            40
        }
        fn label(&self, index: usize) -> usize {
            index % 2
        }
        fn name(&self, index: usize) -> String {
            format!("trap/{index}")
        }
        fn image(&self, index: usize) -> Result<image::RgbImage, crate::data::source::Broken> {
            assert!(index != 27, "image 27 is a trap");
            Ok(image::RgbImage::new(16, 16))
        }
    }

    /// Batches until the end or an error.
    fn drain(mut next: impl FnMut() -> Result<Option<Batch>, DataError>) -> Result<usize, DataError> {
        let mut batches = 0;
        while next()?.is_some() {
            batches += 1;
        }
        Ok(batches)
    }

    #[test]
    fn a_loader_that_panics_is_an_error_and_not_the_end_of_the_data() {
        let set = || Arc::new(Dataset { images: Box::new(Trap), ..open("synthetic", Split::Val, 2) });
        let mut eval = EvalLoader::new(set(), config(0, 1, 2), None).unwrap();
        let told = drain(|| eval.next()).unwrap_err();
        assert!(
            matches!(told, DataError::Panicked(_)) && told.to_string().contains("27 is a trap"),
            "{told}"
        );
        assert!(eval.next().is_err(), "an end after a panic");
        let (mut calibration, _) = EvalLoader::calibration(set(), config(0, 1, 2), 40).unwrap();
        assert!(matches!(drain(|| calibration.next()), Err(DataError::Panicked(_))));
        let mut train = TrainLoader::new(set(), config(0, 1, 2)).unwrap();
        assert!(train.next().is_err(), "no epoch was begun");
        train.start_epoch(0, 0).unwrap();
        assert!(matches!(drain(|| train.next()), Err(DataError::Panicked(_))));
        // An end that was said stays one.
        let mut whole = EvalLoader::new(dataset("synthetic", Split::Val), config(0, 1, 2), None).unwrap();
        assert_eq!(drain(|| whole.next()).unwrap(), 22);
        assert!(whole.next().unwrap().is_none());
    }

    #[test]
    fn settings_that_no_loader_can_use_are_errors_by_name() {
        type Change = fn(&mut DataConfig);
        let wrong: [(Change, &str); 11] = [
            (|c| c.geometry.crop = 17, "resize_short is 16, smaller than crop, 17"),
            (|c| c.geometry.crop = 0, "crop is 0"),
            (|c| c.geometry.resize_short = 0, "resize_short is 0"),
            (|c| c.geometry.channels = 1, "channels is 1"),
            (|c| c.geometry.std[2] = 0.0, "std has 0"),
            (|c| c.geometry.ratio = [f32::NAN, 1.0], "ratio is NaN"),
            (|c| c.geometry.scale = [0.5, 0.1], "scale is 0.5, 0.1"),
            (|c| c.sharding.batch = 0, "sharding.batch is 0"),
            (|c| c.sharding.microbatches = 0, "sharding.microbatches is 0"),
            (|c| c.sharding.world = 0, "sharding.world is 0"),
            (|c| c.sharding.rank = 1, "sharding.rank is 1"),
        ];
        for (change, want) in wrong {
            let mut c = config(0, 1, 1);
            change(&mut c);
            let set = || dataset("synthetic", Split::Train);
            let told = [
                TrainLoader::new(set(), c.clone()).err(),
                EvalLoader::new(set(), c.clone(), None).err(),
                EvalLoader::calibration(set(), c, 8).err(),
            ];
            for e in told {
                let e = e.unwrap_or_else(|| panic!("{want}"));
                assert!(e.is_configuration() && e.to_string().contains(want), "{e}");
            }
        }
        for fraction in [f64::NAN, -0.1, 1.0, 2.0] {
            for root in ["digits", "/no/such"] {
                let wanted = Wanted { val_fraction: fraction, ..wanted(root, 2) };
                let e = Dataset::open(Split::Train, &wanted).err().unwrap().to_string();
                assert!(e.contains(&format!("the fraction is {fraction}")), "{e}");
            }
        }
        let e = Dataset::open(Split::Train, &Wanted { side: 0, ..wanted("synthetic", 2) }).err().unwrap();
        assert!(e.to_string().contains("side is 0"), "{e}");
    }

    #[test]
    fn a_set_smaller_than_a_global_batch_is_refused() {
        let c = DataConfig {
            sharding: Sharding { microbatches: 30, ..config(0, 1, 1).sharding },
            ..config(0, 1, 1)
        };
        let e = TrainLoader::new(dataset("synthetic", Split::Train), c).err().unwrap().to_string();
        assert!(e.contains("107") && e.contains("150") && e.contains("microbatches of 3 images fit"), "{e}");
    }
}
