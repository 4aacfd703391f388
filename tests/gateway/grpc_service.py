"""A gRPC service for tests of what the gateway makes of it, of bytes and without generated code.

`python grpc_service.py NAME` prints the port that it listens on, then a line for each call that
hangs. Its name is in the trailing metadata of each answer.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

SERVICE = "counterfoil.test.Service"
LARGE = 600_000


class Methods:
    def __init__(self, name: str) -> None:
        self.name = name

    def sign(self, context: grpc.ServicerContext, *more: tuple[str, str]) -> None:
        context.set_trailing_metadata((("instance", self.name), *more))

    def echo(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.sign(context)
        return request

    def headers(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        self.sign(context)
        return "\n".join(
            f"{name}: {value}" for name, value in context.invocation_metadata()
        ).encode()

    def fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.sign(context, ("reason", "a rule"))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.decode())
        raise AssertionError

    def hang(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        ended = threading.Event()
        print("hangs", flush=True)
        if context.add_callback(ended.set):
            ended.wait(60)
        return b""

    def count(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self.sign(context)
        for number in range(int(request)):
            yield b"%d" % number

    def large(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self.sign(context)
        for number in range(int(request)):
            yield bytes([number % 256]) * LARGE

    def total(self, requests: Iterable[bytes], context: grpc.ServicerContext) -> bytes:
        self.sign(context)
        return b"%d" % sum(len(each) for each in requests)

    def chat(self, requests: Iterable[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self.sign(context)
        for request in requests:
            if request == b"bye":
                return
            yield request.upper()


def main(name: str) -> None:
    methods = Methods(name)
    kinds: dict[Callable[..., Any], tuple[str, ...]] = {
        grpc.unary_unary_rpc_method_handler: ("echo", "headers", "fail", "hang"),
        grpc.unary_stream_rpc_method_handler: ("count", "large"),
        grpc.stream_unary_rpc_method_handler: ("total",),
        grpc.stream_stream_rpc_method_handler: ("chat",),
    }
    handlers = {each: kind(getattr(methods, each)) for kind, all_ in kinds.items() for each in all_}
    server = grpc.server(ThreadPoolExecutor(64))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1])
