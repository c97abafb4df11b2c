//! Numbers of Yubico's command reference.

pub const ECHO: u8 = 0x01;
pub const CREATE_SESSION: u8 = 0x03;
pub const AUTHENTICATE_SESSION: u8 = 0x04;
pub const SESSION_MESSAGE: u8 = 0x05;
pub const DEVICE_INFO: u8 = 0x06;
pub const RESET_DEVICE: u8 = 0x08;
pub const CLOSE_SESSION: u8 = 0x40;
pub const GET_STORAGE_INFO: u8 = 0x41;
pub const PUT_AUTHENTICATION_KEY: u8 = 0x44;
pub const GENERATE_ASYMMETRIC_KEY: u8 = 0x46;
pub const SIGN_PKCS1: u8 = 0x47;
pub const LIST_OBJECTS: u8 = 0x48;
pub const EXPORT_WRAPPED: u8 = 0x4a;
pub const PUT_WRAP_KEY: u8 = 0x4c;
pub const GET_LOG_ENTRIES: u8 = 0x4d;
pub const GET_OBJECT_INFO: u8 = 0x4e;
pub const SET_OPTION: u8 = 0x4f;
pub const GET_OPTION: u8 = 0x50;
pub const GET_PSEUDO_RANDOM: u8 = 0x51;
pub const PUT_HMAC_KEY: u8 = 0x52;
pub const SIGN_HMAC: u8 = 0x53;
pub const GET_PUBLIC_KEY: u8 = 0x54;
pub const SIGN_PSS: u8 = 0x55;
pub const SIGN_ECDSA: u8 = 0x56;
pub const DERIVE_ECDH: u8 = 0x57;
pub const DELETE_OBJECT: u8 = 0x58;
pub const DECRYPT_OAEP: u8 = 0x59;
pub const GENERATE_HMAC_KEY: u8 = 0x5a;
pub const GENERATE_WRAP_KEY: u8 = 0x5b;
pub const VERIFY_HMAC: u8 = 0x5c;
pub const SET_LOG_INDEX: u8 = 0x67;
pub const WRAP_DATA: u8 = 0x68;
pub const UNWRAP_DATA: u8 = 0x69;
pub const SIGN_EDDSA: u8 = 0x6a;
pub const BLINK_DEVICE: u8 = 0x6b;

/// Of an answer's code.
pub const ANSWER: u8 = 0x80;
pub const ERROR: u8 = 0x7f;

/// Why a command was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    InvalidCommand = 0x01,
    InvalidData = 0x02,
    InvalidSession = 0x03,
    AuthenticationFailed = 0x04,
    SessionsFull = 0x05,
    StorageFailed = 0x07,
    WrongLength = 0x08,
    InsufficientPermissions = 0x09,
    LogFull = 0x0a,
    ObjectNotFound = 0x0b,
    ObjectExists = 0x11,
}

pub const AUTHENTICATION_KEY: u8 = 0x02;
pub const ASYMMETRIC_KEY: u8 = 0x03;
pub const WRAP_KEY: u8 = 0x04;
pub const HMAC_KEY: u8 = 0x05;

/// What sessions and keys may do, as bits of a number.
#[allow(missing_docs)]
pub mod capability {
    pub const PUT_AUTHENTICATION_KEY: u64 = 1 << 0x02;
    pub const GENERATE_ASYMMETRIC_KEY: u64 = 1 << 0x04;
    pub const SIGN_PKCS: u64 = 1 << 0x05;
    pub const SIGN_PSS: u64 = 1 << 0x06;
    pub const SIGN_ECDSA: u64 = 1 << 0x07;
    pub const SIGN_EDDSA: u64 = 1 << 0x08;
    pub const DECRYPT_OAEP: u64 = 1 << 0x0a;
    pub const DERIVE_ECDH: u64 = 1 << 0x0b;
    pub const EXPORT_WRAPPED: u64 = 1 << 0x0c;
    pub const PUT_WRAP_KEY: u64 = 1 << 0x0e;
    pub const GENERATE_WRAP_KEY: u64 = 1 << 0x0f;
    pub const EXPORTABLE_UNDER_WRAP: u64 = 1 << 0x10;
    pub const SET_OPTION: u64 = 1 << 0x11;
    pub const GET_OPTION: u64 = 1 << 0x12;
    pub const GET_PSEUDO_RANDOM: u64 = 1 << 0x13;
    pub const PUT_HMAC_KEY: u64 = 1 << 0x14;
    pub const GENERATE_HMAC_KEY: u64 = 1 << 0x15;
    pub const SIGN_HMAC: u64 = 1 << 0x16;
    pub const VERIFY_HMAC: u64 = 1 << 0x17;
    pub const GET_LOG_ENTRIES: u64 = 1 << 0x18;
    pub const RESET_DEVICE: u64 = 1 << 0x1c;
    pub const WRAP_DATA: u64 = 1 << 0x25;
    pub const UNWRAP_DATA: u64 = 1 << 0x26;
    pub const DELETE_AUTHENTICATION_KEY: u64 = 1 << 0x28;
    pub const DELETE_ASYMMETRIC_KEY: u64 = 1 << 0x29;
    pub const DELETE_WRAP_KEY: u64 = 1 << 0x2a;
    pub const DELETE_HMAC_KEY: u64 = 1 << 0x2b;
    /// All that any device has.
    pub const ALL: u64 = (1 << 0x38) - 1;
}

/// Algorithms, by the numbers of the reference.
pub mod algorithm {
    pub const RSA_2048: u8 = 9;
    pub const RSA_3072: u8 = 10;
    pub const RSA_4096: u8 = 11;
    pub const EC_P256: u8 = 12;
    pub const EC_P384: u8 = 13;
    pub const EC_P521: u8 = 14;
    pub const HMAC_SHA1: u8 = 19;
    pub const HMAC_SHA256: u8 = 20;
    pub const HMAC_SHA384: u8 = 21;
    pub const HMAC_SHA512: u8 = 22;
    pub const AES128_CCM_WRAP: u8 = 29;
    pub const AES128_YUBICO_AUTHENTICATION: u8 = 38;
    pub const AES192_CCM_WRAP: u8 = 41;
    pub const AES256_CCM_WRAP: u8 = 42;
    pub const ED25519: u8 = 46;
    /// MGF1 with SHA-1; SHA-256, -384 and -512 follow.
    pub const MGF1_SHA1: u8 = 32;

    /// What the simulator says that it has: RSA with its schemes, NIST's curves, HMAC, ECDH, OAEP, CCM, MGF1, ECDSA, Ed25519.
    pub const ALL: [u8; 36] = [
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 32, 33, 34, 35, 38,
        41, 42, 43, 44, 45, 46,
    ];
}
