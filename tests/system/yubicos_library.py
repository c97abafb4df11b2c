"""Yubico's library python-yubihsm against the simulator: what it makes of each answer, checked by the package cryptography."""

import os
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from yubihsm import YubiHsm
from yubihsm.defs import ALGORITHM, AUDIT, CAPABILITY, COMMAND, ERROR, OBJECT, ORIGIN
from yubihsm.exceptions import YubiHsmAuthenticationError, YubiHsmDeviceError
from yubihsm.objects import AsymmetricKey, AuthenticationKey, HmacKey, WrapKey

SIGN = CAPABILITY.SIGN_ECDSA | CAPABILITY.SIGN_EDDSA | CAPABILITY.SIGN_PKCS | CAPABILITY.SIGN_PSS
USE = SIGN | CAPABILITY.DECRYPT_OAEP | CAPABILITY.DERIVE_ECDH
MESSAGE = b"what is signed"


def refused(code, act):
    try:
        act()
    except YubiHsmDeviceError as error:
        assert error.code == code, error
        return
    raise AssertionError("this should have been refused")


def elliptic(session):
    for algorithm, curve, digest in [
        (ALGORITHM.EC_P256, ec.SECP256R1(), hashes.SHA256()),
        (ALGORITHM.EC_P384, ec.SECP384R1(), hashes.SHA384()),
        (ALGORITHM.EC_P521, ec.SECP521R1(), hashes.SHA512()),
    ]:
        key = AsymmetricKey.generate(session, 0, "curve", 1, USE, algorithm)
        public = key.get_public_key()
        public.verify(key.sign_ecdsa(MESSAGE, digest), MESSAGE, ec.ECDSA(digest))
        own = ec.generate_private_key(curve)
        assert key.derive_ecdh(own.public_key()) == own.exchange(ec.ECDH(), public)
        key.delete()
    key = AsymmetricKey.generate(session, 0, "edwards", 1, USE, ALGORITHM.EC_ED25519)
    for length in (0, 1, 64, 2019):
        data = os.urandom(length)
        key.get_public_key().verify(key.sign_eddsa(data), data)
    key.delete()


def rsa(session):
    key = AsymmetricKey.generate(session, 0x1234, "rsa", 1, USE, ALGORITHM.RSA_2048)
    assert key.id == 0x1234
    public = key.get_public_key()
    for digest in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):
        public.verify(key.sign_pkcs1v1_5(MESSAGE, digest), MESSAGE, padding.PKCS1v15(), digest)
        signed = key.sign_pss(MESSAGE, digest.digest_size, digest, digest)
        pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
        public.verify(signed, MESSAGE, pss, digest)
        try:
            public.verify(signed, b"another", pss, digest)
            raise AssertionError("a signature of something else")
        except InvalidSignature:
            pass
        oaep = padding.OAEP(padding.MGF1(digest), digest, None)
        assert key.decrypt_oaep(public.encrypt(b"secret", oaep), b"", digest, digest) == b"secret"
    info = key.get_info()
    assert (info.label, info.algorithm, info.origin) == ("rsa", ALGORITHM.RSA_2048, ORIGIN.GENERATED)
    refused(ERROR.OBJECT_EXISTS, lambda: AsymmetricKey.generate(session, 0x1234, "rsa", 1, USE, ALGORITHM.EC_P256))
    key.delete()
    refused(ERROR.OBJECT_NOT_FOUND, key.get_info)


def wrap_and_mac(session):
    may = CAPABILITY.WRAP_DATA | CAPABILITY.UNWRAP_DATA
    for algorithm in (ALGORITHM.AES128_CCM_WRAP, ALGORITHM.AES192_CCM_WRAP, ALGORITHM.AES256_CCM_WRAP):
        raw = os.urandom(algorithm.to_key_size())
        key = WrapKey.put(session, 0, "wrap", 1, may, algorithm, CAPABILITY.NONE, raw)
        data = os.urandom(77)
        wrapped = key.wrap_data(data)
        # A second opinion on the mode itself.
        from cryptography.hazmat.primitives.ciphers.aead import AESCCM

        assert AESCCM(raw, tag_length=16).decrypt(wrapped[:13], wrapped[13:], None) == data
        assert key.unwrap_data(wrapped) == data
        refused(ERROR.INVALID_DATA, lambda: key.unwrap_data(wrapped[:-1] + bytes([wrapped[-1] ^ 1])))
        key.delete()
    key = HmacKey.generate(
        session, 0, "mac", 1, CAPABILITY.SIGN_HMAC | CAPABILITY.VERIFY_HMAC, ALGORITHM.HMAC_SHA256
    )
    tag = key.sign_hmac(MESSAGE)
    assert len(tag) == 32 and key.verify_hmac(tag, MESSAGE) and not key.verify_hmac(tag, b"another")
    key.delete()


def authorities(hsm, session):
    limited = AuthenticationKey.put_derived(session, 77, "limited", 2, CAPABILITY.SIGN_ECDSA, CAPABILITY.NONE, "its own")
    hidden = AsymmetricKey.generate(session, 0, "hidden", 1, USE, ALGORITHM.EC_P256)
    shown = AsymmetricKey.generate(session, 0, "shown", 2, CAPABILITY.DERIVE_ECDH, ALGORITHM.EC_P256)
    with hsm.create_session_derived(77, "its own") as other:
        refused(ERROR.OBJECT_NOT_FOUND, lambda: hidden.with_session(other).sign_ecdsa(MESSAGE))
        refused(ERROR.INSUFFICIENT_PERMISSIONS, lambda: shown.with_session(other).sign_ecdsa(MESSAGE))
        refused(ERROR.INSUFFICIENT_PERMISSIONS, lambda: other.get_pseudo_random(8))
        refused(ERROR.INSUFFICIENT_PERMISSIONS, shown.with_session(other).delete)
        assert other.list_objects(object_type=OBJECT.ASYMMETRIC_KEY, label="shown")[0].id == shown.id
    try:
        hsm.create_session_derived(77, "guessed")
        raise AssertionError("a wrong password")
    except YubiHsmAuthenticationError:
        pass
    for made in (hidden, shown, limited):
        made.delete()
    refused(ERROR.OBJECT_NOT_FOUND, lambda: hsm.create_session_derived(77, "its own"))


def log(hsm, session):
    quiet = (COMMAND.ERROR, COMMAND.DEVICE_INFO, COMMAND.GET_LOG_ENTRIES, COMMAND.ECHO, COMMAND.SESSION_MESSAGE)
    session.set_command_audit({command: AUDIT.ON for command in COMMAND if command not in quiet})
    session.set_force_audit(AUDIT.ON)
    last = session.get_log_entries().entries[-1]
    session.set_log_index(last.number)
    full = False
    for _ in range(70):
        try:
            session.get_pseudo_random(8)
        except YubiHsmDeviceError as error:
            assert error.code == ERROR.LOG_FULL
            full = True
    info = hsm.get_device_info()
    assert full and info.log_used == info.log_size == 62
    # The library follows the chain of digests from the entry that it has.
    kept = session.get_log_entries(last)
    session.set_log_index(kept.entries[-1].number)
    session.get_pseudo_random(8)
    session.set_force_audit(AUDIT.OFF)


def sessions(hsm):
    opened = []
    try:
        for _ in range(20):
            opened.append(hsm.create_session_derived(1, "password"))
        raise AssertionError("more than sixteen sessions")
    except YubiHsmDeviceError as error:
        assert error.code == ERROR.SESSIONS_FULL
    for session in opened:
        session.close()


with YubiHsm.connect(sys.argv[1]) as hsm:
    assert hsm.send_cmd(COMMAND.ECHO, b"hello") == b"hello"
    with hsm.create_session_derived(1, "password") as session:
        assert session.send_secure_cmd(COMMAND.ECHO, bytes(range(200))) == bytes(range(200))
        assert len(session.get_pseudo_random(2021)) == 2021
        elliptic(session)
        rsa(session)
        wrap_and_mac(session)
        authorities(hsm, session)
        log(hsm, session)
    sessions(hsm)
print("all as expected")
