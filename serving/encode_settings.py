"""The encoder that a scorer asks for vectors of what requests bring. Environment: REPCENTER_<FIELD>."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.client import Credentials


class EncodeSettings(BaseSettings):
    """Without a target nothing is encoded, and requests that need it are refused."""

    model_config = SettingsConfigDict(env_prefix="REPCENTER_", extra="ignore", frozen=True)

    encoder_target: str | None = Field(
        default=None,
        min_length=1,
        description="host:port of the gRPC door of an encoder (`repcenter encoder`), asked for vectors of "
        "query texts, query pictures and contents of items; unset: requests that need it are refused.",
    )
    encoder_api_key: SecretStr | None = Field(
        default=None, description="API key of role score that the encoder asks for."
    )
    encoder_tls: bool = Field(default=False, description="Whether the encoder's door speaks TLS.")
    encoder_tls_ca_file: Path | None = Field(
        default=None,
        repr=False,
        description="PEM file of the authority that signed its certificate; unset: the system's authorities.",
    )
    encoder_tls_cert_file: Path | None = Field(
        default=None,
        repr=False,
        description="PEM file of the scorer's certificate, where the encoder asks for one.",
    )
    encoder_tls_key_file: Path | None = Field(
        default=None, repr=False, description="PEM file of that certificate's key, without a passphrase."
    )
    encode_cache_items: int = Field(
        default=10_000,
        ge=0,
        le=10_000_000,
        description="Encoded contents kept in memory, the newest used; a content is its text, attributes and "
        "picture, so none grows old. About 3 KB each at 3 x 128 dims; 0: none.",
    )
    encode_in_flight: int = Field(
        default=256,
        ge=1,
        le=100_000,
        description="Contents that one scorer waits for at a time; more are refused.",
    )

    def credentials(self) -> Credentials:
        """Raises InvalidInput where a certificate has no key."""
        key = None if self.encoder_api_key is None else self.encoder_api_key.get_secret_value()
        return Credentials(
            key, self.encoder_tls_ca_file, self.encoder_tls_cert_file, self.encoder_tls_key_file
        )
