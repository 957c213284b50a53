"""How a network is run: which runtime, number type and layout; chosen by measuring, proved on pictures.

    plan        what ways there are on this hardware, and which of the measured ones to take (pure)
    hardware    what this machine is, as far as it decides that
    network     what a detector gives: its module, and what to do with a batch before it
    views       the shipped pictures, and crops of them
    trying      a detector put through its own steps on them
    programs    a network made to run one way: torch on the CPU or a GPU
    graphs      the same for an exported graph: OpenVINO, onnxruntime
    exported    the graph itself: kept, or made anew
    int8        int8: quantised, proved on pictures, kept or refused
    quantize    the int8 graph, calibrated on pictures
    folded      the exported graph with all computed that does not hang on the picture
    equalize    channels of unlike size made alike, before quantising
    sensitive   which layers stand int8 worst, by trying; `delicate` by rule
    guard       whether answers are still the same
    measure     how long each way takes, in rounds that take turns
    lane        on what: a lane's threads, a stream of a GPU
    store       choices kept on disk
    compiled    compiled graphs kept on disk
    kept        files that are whole, or not there
    bounded     the store's folders, no larger together than told
    kinds       whether lanes compute, or wait for processes of the model's own that do
    contest     which of both is quicker
    apart       a program in such processes; `nursery` is their side of it, `room` what both see
    decide      all of it in order

A detector calls `decide(self, network, context)` at the end of its loading. It knows no detector, and nothing
of the server.
"""
