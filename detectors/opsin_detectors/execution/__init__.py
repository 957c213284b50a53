"""How a network is run: which runtime, number type and layout; chosen by measuring, proved on pictures.

    plan        what ways there are on this hardware, and which of the measured ones to take (pure)
    hardware    what this machine is, as far as it decides that
    network     what a detector gives: its module, and what to do with a batch before it
    views       the shipped pictures, and crops of them
    trying      a detector put through its own steps on them
    programs    a network made to run one way: torch on the CPU or a GPU
    graphs      the same for an exported graph: OpenVINO, onnxruntime
    exported    the graph itself: kept, or made anew
    quantize    int8: calibrated and checked on pictures
    guard       whether answers are still the same
    measure     how long each way takes, in rounds that take turns
    lane        on what: a lane's threads, a stream of a GPU
    store       choices kept on disk
    decide      all of it in order

A detector calls `decide(self, network, context)` at the end of its loading. It knows no detector, and nothing
of the server.
"""
