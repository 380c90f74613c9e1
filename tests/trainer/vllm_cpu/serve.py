"""python serve.py FOLDER_OF_VLLM MODEL PORT [OPTION ...]: vLLM's API server on a CPU, weights over a TCP store."""

import os
import sys

if __name__ == "__main__":
    folder, model, port, *options = sys.argv[1:]
    sys.path += [folder, os.path.dirname(__file__)]  # last: the project's own packages come first
    sys.argv = [
        "vllm", "--model", model, "--port", port, "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager",
        "--weight-transfer-config", '{"backend": "store"}', "--worker-extension-cls", "store_transfer.Extension",
        "--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1", "--enable-scale-out",
        "--max-model-len", "1024", "--max-num-seqs", "32", *options,
    ]  # fmt: skip
    import store_transfer  # noqa: F401  # registers the transport in this process too
    from vllm.entrypoints.launchers.api_server.entry import main

    main()
