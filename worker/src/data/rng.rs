//! Random numbers by counter: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
//! A stream depends on its key only, never on what was drawn before elsewhere.

/// One block of Philox4x32-10.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
    }
    counter
}

fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct CounterRng {
    key: [u32; 2],
    high: [u32; 2],
    block: u64,
    words: [u32; 4],
    used: usize,
    spare: Option<f32>,
}

impl CounterRng {
    /// The stream `stream` (e.g. epoch and sample) of `seed`.
    pub fn new(seed: u64, stream: [u64; 2]) -> Self {
        let ([a, b], [c, d]) = (halves(stream[0]), halves(stream[1]));
        let [k0, k1, h0, h1] = philox([a, b, c, d], halves(seed));
        Self { key: [k0, k1], high: [h0, h1], block: 0, words: [0; 4], used: 4, spare: None }
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        if self.used == 4 {
            let [low, mid] = halves(self.block);
            self.words = philox([low, mid, self.high[0], self.high[1]], self.key);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// Uniform in [0, 1), on a grid of 2^-24.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / 16_777_216.0
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// Uniform among 0..n; `n` above 0.
    pub fn below(&mut self, n: u64) -> u64 {
        let wide = u64::from(self.bits()) << 32 | u64::from(self.bits());
        ((u128::from(wide) * u128::from(n)) >> 64) as u64
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f32 {
        if let Some(x) = self.spare.take() {
            return x;
        }
        let radius = (-2.0 * (1.0 - f64::from(self.uniform())).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * f64::from(self.uniform())).sin_cos();
        self.spare = Some((radius * sin) as f32);
        (radius * cos) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_the_published_ones() {
        // Known answers of the authors' Random123 library (kat_vectors).
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn streams_differ_and_repeat() {
        let draw = |seed, stream| {
            let mut r = CounterRng::new(seed, stream);
            (0..9).map(|_| r.bits()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, [2, 3]), draw(1, [2, 3]));
        let others = [draw(2, [2, 3]), draw(1, [3, 3]), draw(1, [2, 4]), draw(1, [3, 2])];
        assert!(others.iter().all(|o| *o != draw(1, [2, 3])));
    }

    #[test]
    fn moments_are_right() {
        let mut r = CounterRng::new(7, [0, 0]);
        let n = 20_000;
        let (mut sum, mut squares, mut flat) = (0.0f64, 0.0, 0.0);
        for _ in 0..n {
            let x = f64::from(r.normal());
            sum += x;
            squares += x * x;
            flat += f64::from(r.uniform());
        }
        assert!((sum / f64::from(n)).abs() < 0.03 && (squares / f64::from(n) - 1.0).abs() < 0.04);
        assert!((flat / f64::from(n) - 0.5).abs() < 0.01);
        assert!((0..1000).map(|_| r.below(7)).all(|x| x < 7));
    }
}
