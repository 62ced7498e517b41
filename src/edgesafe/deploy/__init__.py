"""From a network to files for the device: ONNX export, parity, sparse and calibrated variants, transport size."""

from edgesafe.deploy.transport import transport_bytes

__all__ = ["transport_bytes"]
