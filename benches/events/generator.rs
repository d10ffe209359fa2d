//! Events by their number, rendered by patching one template: the generator shares the cores.
//!
//! An event is a function of its number, so that a duplicate can be made again without being
//! remembered. Its identifier and half of its text are random: they compress like real ones.

/// Events a request.
pub(crate) const BATCH: u64 = 5_000;

/// Of them, how many were never sent before: 20% are duplicates.
pub(crate) const NEW: u64 = BATCH / 5 * 4;

const TEMPLATE: &[u8] = concat!(
    r#"{"event_id":"iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii","timestamp":"2026-01-DDThh:mm:ss.fffZ","#,
    r#""tenant_id":"shop-nn","event_type":"tttttttt","user_id":"u-uuuuuuu","#,
    r#""properties":{"page":"/products/ppppp","text":"#,
    r#""xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}},"#,
)
.as_bytes();

const TYPES: [&[u8; 8]; 8] = [
    b"pageview",
    b"add_item",
    b"checkout",
    b"purchase",
    b"register",
    b"wishlist",
    b"download",
    b"feedback",
];

/// The milliseconds of 30 days: so long the stream takes.
const SPAN: u64 = 30 * 86_400_000;

/// How much an event may come late, in milliseconds.
const LATE: u64 = 60_000;

/// Bytes of an event in a request, its comma included.
pub(crate) const EVENT: usize = TEMPLATE.len();

/// Where the parts of the template are.
struct Places {
    id: usize,
    time: usize,
    tenant: usize,
    kind: usize,
    user: usize,
    page: usize,
    text: usize,
}

/// Renders events of a stream of so many.
pub(crate) struct Generator {
    total: u64,
    places: Places,
}

/// One request's worth of text, its head included.
pub(crate) struct Request {
    pub(crate) bytes: Vec<u8>,
    body: usize,
}

impl Generator {
    pub(crate) fn new(total: u64) -> Self {
        let at = |mark: &[u8]| {
            TEMPLATE
                .windows(mark.len())
                .position(|window| window == mark)
                .unwrap()
        };
        Self {
            total: total.max(1),
            places: Places {
                id: at(b"iiii"),
                time: at(b"DDT"),
                tenant: at(b"nn\""),
                kind: at(b"tttt"),
                user: at(b"uuuu"),
                page: at(b"pppp"),
                text: at(b"xxxx"),
            },
        }
    }

    /// A request for `count` events: to be filled by [`Generator::fill`].
    pub(crate) fn request(path: &str, count: u64) -> Request {
        let count = usize::try_from(count).unwrap();
        // A single event is no array.
        let (open, close) = if count == 1 { ("", "") } else { ("[", "]") };
        let length = open.len() + count * EVENT - 1 + close.len();
        let mut bytes = format!(
            "POST {path} HTTP/1.1\r\nHost: tollgate\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{open}"
        )
        .into_bytes();
        let body = bytes.len();
        for _ in 0..count {
            bytes.extend_from_slice(TEMPLATE);
        }
        bytes.truncate(body + count * EVENT - 1);
        bytes.extend_from_slice(close.as_bytes());
        Request { bytes, body }
    }

    /// Makes the events of a request those of these numbers.
    pub(crate) fn fill(&self, request: &mut Request, numbers: impl Iterator<Item = u64>) {
        for (index, number) in numbers.enumerate() {
            let start = request.body + index * EVENT;
            self.patch(&mut request.bytes[start..start + EVENT - 1], number);
        }
    }

    /// One event as JSON text.
    pub(crate) fn event(&self, number: u64) -> Vec<u8> {
        let mut event = TEMPLATE[..EVENT - 1].to_vec();
        self.patch(&mut event, number);
        event
    }

    fn patch(&self, event: &mut [u8], number: u64) {
        let mut rng = fastrand::Rng::with_seed(mixed(number));
        let places = &self.places;
        letters(
            &mut event[places.id..places.id + 32],
            &mut rng,
            b"0123456789abcdef",
        );
        let spacing = SPAN / self.total;
        let millis = (number * spacing).saturating_sub(rng.u64(..LATE)) % (31 * 86_400_000);
        time(&mut event[places.time..], millis);
        decimal(&mut event[places.tenant..places.tenant + 2], rng.u64(..20));
        let kind = TYPES[rng.usize(..TYPES.len())];
        event[places.kind..places.kind + 8].copy_from_slice(kind);
        decimal(&mut event[places.user..places.user + 7], rng.u64(..500_000));
        decimal(&mut event[places.page..places.page + 5], rng.u64(..2_000));
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        letters(
            &mut event[places.text..places.text + 48],
            &mut rng,
            alphabet,
        );
    }
}

/// The numbers of the `request`-th request: new ones in order, and each fifth one of those before.
pub(crate) fn numbers(request: u64) -> impl Iterator<Item = u64> {
    let mut rng = fastrand::Rng::with_seed(mixed(request ^ 0x00d1_5ea5));
    let first = request * NEW;
    (0..BATCH).map(move |index| {
        if index % 5 == 4 {
            // The first request has only its own.
            rng.u64(..first.max(index / 5 * 4 + 4))
        } else {
            first + index / 5 * 4 + index % 5
        }
    })
}

/// Neighbouring numbers far apart (splitmix64).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Random ones of an alphabet, whose length is a power of two up to 64.
fn letters(out: &mut [u8], rng: &mut fastrand::Rng, alphabet: &[u8]) {
    for chunk in out.chunks_mut(8) {
        let mut bits = rng.u64(..);
        for byte in chunk {
            *byte = alphabet[usize::from(bits.to_le_bytes()[0]) & (alphabet.len() - 1)];
            bits >>= 8;
        }
    }
}

fn decimal(out: &mut [u8], mut number: u64) {
    for byte in out.iter_mut().rev() {
        *byte = b'0' + u8::try_from(number % 10).unwrap();
        number /= 10;
    }
}

/// `DDThh:mm:ss.fff`.
fn time(out: &mut [u8], millis: u64) {
    let seconds = millis / 1_000;
    decimal(&mut out[..2], seconds / 86_400 + 1);
    decimal(&mut out[3..5], seconds / 3_600 % 24);
    decimal(&mut out[6..8], seconds / 60 % 60);
    decimal(&mut out[9..11], seconds % 60);
    decimal(&mut out[12..15], millis % 1_000);
}
