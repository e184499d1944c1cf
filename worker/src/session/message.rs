//! Vhost-user messages: from bytes to requests, nothing else (no descriptor, no memory, no state is touched here).
//!
//! Layouts: the vhost-user protocol specification in QEMU's documentation ("Front-end message types").
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt;

use crate::memory::RegionDescription;

pub const HEADER_BYTES: usize = 12;
/// Longest payload read: GET_CONFIG with the largest configuration space is far below.
pub const MAX_PAYLOAD_BYTES: usize = 4096;
/// Most descriptors with one message: SET_MEM_TABLE with all its regions.
pub const MAX_DESCRIPTORS: usize = 8;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
const RING_MASK: u64 = 0xff;
const NO_DESCRIPTOR: u64 = 1 << 8;
const REGION_BYTES: usize = 32;

/// Virtio and vhost-user features (bits of SET_FEATURES).
pub mod features {
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
    pub const OFFERED: u64 = INDIRECT_DESC | EVENT_IDX | PROTOCOL_FEATURES | VERSION_1;
}

/// Protocol features (bits of SET_PROTOCOL_FEATURES).
pub mod protocol {
    pub const MQ: u64 = 1 << 0;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const BACKEND_REQ: u64 = 1 << 5;
    pub const CONFIG: u64 = 1 << 9;
    pub const BACKEND_SEND_FD: u64 = 1 << 10;
    pub const RESET_DEVICE: u64 = 1 << 13;
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    pub const OFFERED: u64 =
        MQ | REPLY_ACK | BACKEND_REQ | CONFIG | BACKEND_SEND_FD | RESET_DEVICE | CONFIGURE_MEM_SLOTS;
}

macro_rules! codes {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        /// The requests that are known here, by their number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Code { $($name = $number,)* }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The specification's name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    GetFeatures = 1, "GET_FEATURES";
    SetFeatures = 2, "SET_FEATURES";
    SetOwner = 3, "SET_OWNER";
    ResetOwner = 4, "RESET_OWNER";
    SetMemTable = 5, "SET_MEM_TABLE";
    SetVringNum = 8, "SET_VRING_NUM";
    SetVringAddr = 9, "SET_VRING_ADDR";
    SetVringBase = 10, "SET_VRING_BASE";
    GetVringBase = 11, "GET_VRING_BASE";
    SetVringKick = 12, "SET_VRING_KICK";
    SetVringCall = 13, "SET_VRING_CALL";
    SetVringErr = 14, "SET_VRING_ERR";
    GetProtocolFeatures = 15, "GET_PROTOCOL_FEATURES";
    SetProtocolFeatures = 16, "SET_PROTOCOL_FEATURES";
    GetQueueNum = 17, "GET_QUEUE_NUM";
    SetVringEnable = 18, "SET_VRING_ENABLE";
    SetBackendReqFd = 21, "SET_BACKEND_REQ_FD";
    GetConfig = 24, "GET_CONFIG";
    SetConfig = 25, "SET_CONFIG";
    ResetDevice = 34, "RESET_DEVICE";
    GetMaxMemSlots = 36, "GET_MAX_MEM_SLOTS";
    AddMemReg = 37, "ADD_MEM_REG";
    RemMemReg = 38, "REM_MEM_REG";
}

impl Code {
    fn of(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| *code as u32 == number)
    }

    /// The protocol feature without which the message may not come; 0 if none.
    pub fn needs(self) -> u64 {
        match self {
            Self::GetQueueNum => protocol::MQ,
            Self::SetBackendReqFd => protocol::BACKEND_REQ,
            Self::GetConfig | Self::SetConfig => protocol::CONFIG,
            Self::ResetDevice => protocol::RESET_DEVICE,
            Self::GetMaxMemSlots | Self::AddMemReg | Self::RemMemReg => protocol::CONFIGURE_MEM_SLOTS,
            _ => 0,
        }
    }

    /// Has a reply of its own: NEED_REPLY adds none.
    pub fn replies(self) -> bool {
        matches!(
            self,
            Self::GetFeatures
                | Self::GetVringBase
                | Self::GetProtocolFeatures
                | Self::GetQueueNum
                | Self::GetConfig
                | Self::GetMaxMemSlots
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub code: Code,
    pub need_reply: bool,
    pub payload: usize,
}

/// A message that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    Unknown(u32),
    Flags(u32),
    TooLong(u32),
    Payload(usize),
    Descriptors(usize),
    Bits(u64),
    Regions(u32),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(number) => write!(f, "request {number} is not known here"),
            Self::Flags(flags) => write!(f, "header flags {flags:#x}"),
            Self::TooLong(bytes) => write!(f, "a payload of {bytes} bytes; at most {MAX_PAYLOAD_BYTES} are read"),
            Self::Payload(bytes) => write!(f, "a payload of {bytes} bytes does not fit the request"),
            Self::Descriptors(count) => write!(f, "{count} descriptors do not fit the request"),
            Self::Bits(value) => write!(f, "unknown bits in {value:#x}"),
            Self::Regions(count) => write!(f, "{count} regions; 1 to {MAX_DESCRIPTORS} fit"),
        }
    }
}

impl Header {
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, Malformed> {
        let mut fields = Fields(&bytes);
        let (number, flags, length) = (fields.u32(), fields.u32(), fields.u32());
        let code = Code::of(number).ok_or(Malformed::Unknown(number))?;
        if flags & !(VERSION_MASK | NEED_REPLY) != 0 || flags & VERSION_MASK != VERSION {
            return Err(Malformed::Flags(flags));
        }
        if length as usize > MAX_PAYLOAD_BYTES {
            return Err(Malformed::TooLong(length));
        }
        Ok(Self { code, need_reply: flags & NEED_REPLY != 0, payload: length as usize })
    }
}

/// A reply to *code* with *payload*.
pub fn reply(code: Code, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    for field in [code as u32, VERSION | REPLY, payload.len() as u32] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(payload);
    bytes
}

/// What the monitor asks for. Descriptors travel beside it, already counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemTable(Vec<RegionDescription>),
    SetVringNum { ring: u32, size: u32 },
    SetVringAddr { ring: u32, flags: u32, descriptors: u64, used: u64, available: u64 },
    SetVringBase { ring: u32, base: u32 },
    GetVringBase { ring: u32 },
    SetVringKick { ring: u32 },
    SetVringCall { ring: u32 },
    SetVringErr { ring: u32 },
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    SetVringEnable { ring: u32, enable: u32 },
    SetBackendReqFd,
    GetConfig { offset: u32, size: u32, flags: u32 },
    SetConfig,
    ResetDevice,
    GetMaxMemSlots,
    AddMemReg(RegionDescription),
    RemMemReg(RegionDescription),
}

impl Request {
    /// Reads *payload* as *code* has it; *descriptors* is how many came along.
    pub fn parse(code: Code, payload: &[u8], descriptors: usize) -> Result<Self, Malformed> {
        let mut fields = Fields(payload);
        let request = match code {
            Code::GetFeatures => Self::GetFeatures,
            Code::SetFeatures => Self::SetFeatures(fields.u64()),
            Code::SetOwner => Self::SetOwner,
            Code::ResetOwner => Self::ResetOwner,
            Code::SetMemTable => return mem_table(payload, descriptors),
            Code::SetVringNum => Self::SetVringNum { ring: fields.u32(), size: fields.u32() },
            Code::SetVringAddr => vring_addr(&mut fields),
            Code::SetVringBase => Self::SetVringBase { ring: fields.u32(), base: fields.u32() },
            Code::GetVringBase => {
                let ring = fields.u32();
                fields.u32();
                Self::GetVringBase { ring }
            }
            Code::SetVringKick | Code::SetVringCall | Code::SetVringErr => {
                return vring_descriptor(code, payload, descriptors)
            }
            Code::GetProtocolFeatures => Self::GetProtocolFeatures,
            Code::SetProtocolFeatures => Self::SetProtocolFeatures(fields.u64()),
            Code::GetQueueNum => Self::GetQueueNum,
            Code::SetVringEnable => Self::SetVringEnable { ring: fields.u32(), enable: fields.u32() },
            Code::SetBackendReqFd => Self::SetBackendReqFd,
            Code::GetConfig | Code::SetConfig => return config(code, payload, descriptors),
            Code::ResetDevice => Self::ResetDevice,
            Code::GetMaxMemSlots => Self::GetMaxMemSlots,
            Code::AddMemReg | Code::RemMemReg => {
                fields.u64();
                let region = fields.region();
                if code == Code::AddMemReg {
                    Self::AddMemReg(region)
                } else {
                    Self::RemMemReg(region)
                }
            }
        };
        if payload.len() != size_of_payload(code) {
            return Err(Malformed::Payload(payload.len()));
        }
        let fits = match code {
            Code::SetBackendReqFd | Code::AddMemReg => descriptors == 1,
            // Some monitors send the region's descriptor here too; it is closed unused, as the specification wants.
            Code::RemMemReg => descriptors <= 1,
            _ => descriptors == 0,
        };
        if fits {
            Ok(request)
        } else {
            Err(Malformed::Descriptors(descriptors))
        }
    }
}

/// Payload of the requests whose size is fixed.
fn size_of_payload(code: Code) -> usize {
    match code {
        Code::SetFeatures
        | Code::SetProtocolFeatures
        | Code::SetVringNum
        | Code::SetVringBase
        | Code::GetVringBase
        | Code::SetVringEnable => 8,
        Code::SetVringAddr => 40,
        Code::AddMemReg | Code::RemMemReg => 8 + REGION_BYTES,
        _ => 0,
    }
}

fn vring_addr(fields: &mut Fields<'_>) -> Request {
    let (ring, flags, descriptors, used, available) =
        (fields.u32(), fields.u32(), fields.u64(), fields.u64(), fields.u64());
    // The log's address: nothing is logged, since the feature is not offered.
    fields.u64();
    Request::SetVringAddr { ring, flags, descriptors, used, available }
}

/// user-mode-linux always sends room for two regions, also when it has one: a longer payload than needed is taken.
fn mem_table(payload: &[u8], descriptors: usize) -> Result<Request, Malformed> {
    let mut fields = Fields(payload);
    let (count, _padding) = (fields.u32(), fields.u32());
    let wanted = count as usize;
    if wanted == 0 || wanted > MAX_DESCRIPTORS {
        return Err(Malformed::Regions(count));
    }
    if payload.len() < 8 + wanted * REGION_BYTES || payload.len() > 8 + MAX_DESCRIPTORS * REGION_BYTES {
        return Err(Malformed::Payload(payload.len()));
    }
    if descriptors != wanted {
        return Err(Malformed::Descriptors(descriptors));
    }
    Ok(Request::SetMemTable((0..wanted).map(|_| fields.region()).collect()))
}

/// A ring's number and, unless the monitor says that there is none, one descriptor.
fn vring_descriptor(code: Code, payload: &[u8], descriptors: usize) -> Result<Request, Malformed> {
    let value = Fields(payload).u64();
    if payload.len() != 8 {
        return Err(Malformed::Payload(payload.len()));
    }
    if value & !(RING_MASK | NO_DESCRIPTOR) != 0 {
        return Err(Malformed::Bits(value));
    }
    // Without a kick descriptor the device would have to poll the ring for ever: refused, no known monitor asks.
    let none = value & NO_DESCRIPTOR != 0 && code != Code::SetVringKick;
    if descriptors != usize::from(!none) {
        return Err(Malformed::Descriptors(descriptors));
    }
    let ring = (value & RING_MASK) as u32;
    Ok(match code {
        Code::SetVringKick => Request::SetVringKick { ring },
        Code::SetVringCall => Request::SetVringCall { ring },
        _ => Request::SetVringErr { ring },
    })
}

fn config(code: Code, payload: &[u8], descriptors: usize) -> Result<Request, Malformed> {
    let mut fields = Fields(payload);
    let (offset, size, flags) = (fields.u32(), fields.u32(), fields.u32());
    if payload.len() < 12 || payload.len() - 12 != size as usize {
        return Err(Malformed::Payload(payload.len()));
    }
    if descriptors != 0 {
        return Err(Malformed::Descriptors(descriptors));
    }
    Ok(if code == Code::GetConfig { Request::GetConfig { offset, size, flags } } else { Request::SetConfig })
}

/// Little-endian fields one after the other; zeros where the payload ends first (its length is checked apart).
struct Fields<'p>(&'p [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk::<N>().map_or(([0; N], &[][..]), |(field, rest)| (*field, rest));
        self.0 = rest;
        field
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn region(&mut self) -> RegionDescription {
        RegionDescription { guest: self.u64(), size: self.u64(), user: self.u64(), offset: self.u64() }
    }
}
