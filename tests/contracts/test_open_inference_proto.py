"""The Open Inference Protocol's stubs: names and numbers are the standard's, so its clients can read them."""

from __future__ import annotations

from google.protobuf import descriptor_pb2

from contracts.rpc.v1 import open_inference_pb2

TENSOR = {"name": 1, "datatype": 2, "shape": 3, "parameters": 4, "contents": 5}
FIELDS = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": 1},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": 1},
    "ModelReadyRequest": {"name": 1, "version": 2},
    "ModelReadyResponse": {"ready": 1},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {"name": 1, "version": 2, "extensions": 3},
    "ModelMetadataRequest": {"name": 1, "version": 2},
    "ModelMetadataResponse": {"name": 1, "versions": 2, "platform": 3, "inputs": 4, "outputs": 5},
    "ModelMetadataResponse.TensorMetadata": {"name": 1, "datatype": 2, "shape": 3},
    "ModelInferRequest": {
        **{"model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "inputs": 5, "outputs": 6},
        "raw_input_contents": 7,
    },
    "ModelInferRequest.InferInputTensor": TENSOR,
    "ModelInferRequest.InferRequestedOutputTensor": {"name": 1, "parameters": 2},
    "ModelInferResponse": {
        **{"model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "outputs": 5},
        "raw_output_contents": 6,
    },
    "ModelInferResponse.InferOutputTensor": TENSOR,
    "InferParameter": {
        **{"bool_param": 1, "int64_param": 2, "string_param": 3, "double_param": 4, "uint64_param": 5}
    },
    "InferTensorContents": {
        **{"bool_contents": 1, "int_contents": 2, "int64_contents": 3, "uint_contents": 4},
        **{"uint64_contents": 5, "fp32_contents": 6, "fp64_contents": 7, "bytes_contents": 8},
    },
}
METHODS = ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"]


def test_names_and_numbers_are_the_standards() -> None:
    file = descriptor_pb2.FileDescriptorProto()
    open_inference_pb2.DESCRIPTOR.CopyToProto(file)
    found = {m.name: {f.name: f.number for f in m.field} for m in file.message_type}
    found |= {
        f"{m.name}.{n.name}": {f.name: f.number for f in n.field}
        for m in file.message_type
        for n in m.nested_type
        if not n.options.map_entry
    }
    assert found == FIELDS
    assert file.package == "inference"
    (service,) = file.service
    assert (service.name, [m.name for m in service.method]) == ("GRPCInferenceService", METHODS)
    assert all(m.input_type == f".inference.{m.name}Request" for m in service.method)
    assert all(m.output_type == f".inference.{m.name}Response" for m in service.method)
