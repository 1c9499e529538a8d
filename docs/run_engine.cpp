// Upscales raw RGB frames with a folder of engines of TensorRT or TensorRT-RTX, without Python: see engines.md.
// Every graph must be one engine. Sizes and schedule are read from the engines' tensors.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

using Bytes = std::vector<char>;

constexpr int64_t kUnitFrames = 8, kUnitLatents = 2, kWarmUpFrames = 3;
constexpr double kTheta = 10000.0;  // of the rotary embedding

void check(bool good, const std::string& problem) {
    if (!good) throw std::runtime_error(problem);
}

Bytes read_all(std::istream& stream) {
    return Bytes((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
}

template <typename T>
Bytes bytes_of(const std::vector<T>& values) {
    const char* start = reinterpret_cast<const char*>(values.data());
    return Bytes(start, start + values.size() * sizeof(T));
}

bool begins(const std::string& name, const std::string& start) { return name.rfind(start, 0) == 0; }

// One graph hands these to another; the first step has several units, and each has its place in the buffer.
bool is_handed_on(const std::string& tensor) {
    return tensor == "tokens" || tensor == "condition" || tensor == "latent";
}

struct Logger : nvinfer1::ILogger {
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kWARNING) std::cerr << message << '\n';
    }
};

struct Graph {
    std::string name;
    std::unique_ptr<nvinfer1::ICudaEngine> engine;
    std::unique_ptr<nvinfer1::IExecutionContext> context;
    std::vector<std::string> tensors;

    Graph(nvinfer1::IRuntime& runtime, const std::string& folder, const std::string& graph) : name(graph) {
        std::ifstream file(folder + "/" + name + ".engine", std::ios::binary);
        check(file.good(), "no " + name + ".engine in " + folder + ": a graph that is cut has several");
        const Bytes content = read_all(file);
        engine.reset(runtime.deserializeCudaEngine(content.data(), content.size()));
        check(engine != nullptr, name + ".engine cannot be loaded");
        // Engines of TensorRT-RTX are built to allocate nothing themselves.
        context.reset(engine->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
        check(context != nullptr, name + ".engine cannot be run");
        for (int32_t i = 0; i < engine->getNbIOTensors(); ++i) tensors.push_back(engine->getIOTensorName(i));
    }

    bool has(const std::string& tensor) const {
        return std::find(tensors.begin(), tensors.end(), tensor) != tensors.end();
    }

    nvinfer1::Dims shape(const std::string& tensor) const { return engine->getTensorShape(tensor.c_str()); }

    // Row-major, or with channels innermost in a multiple of 8 (kHWC8): the size is the same.
    int64_t bytes(const std::string& tensor) const {
        const nvinfer1::DataType type = engine->getTensorDataType(tensor.c_str());
        int64_t size = 2;  // kHALF and kBF16
        if (type == nvinfer1::DataType::kFLOAT) size = 4;
        if (type == nvinfer1::DataType::kBOOL || type == nvinfer1::DataType::kUINT8) size = 1;
        for (int32_t i = 0; i < shape(tensor).nbDims; ++i) size *= shape(tensor).d[i];
        return size;
    }

    // A buffer's name: state, the ring and what is handed on belong to the clip, all else to the graph.
    std::string buffer(const std::string& tensor) const {
        const bool state = begins(tensor, "next_") || has("next_" + tensor) || begins(tensor, "ring_");
        return state || is_handed_on(tensor) ? tensor : name + "/" + tensor;
    }
};

struct Clip {
    Logger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime{nvinfer1::createInferRuntime(logger)};
    std::map<std::string, Graph> graphs;
    std::map<std::string, char*> buffers;  // the process gives them back
    cudaStream_t stream{};
    int64_t first_units = 1;

    explicit Clip(const std::string& folder) {
        check(cudaStreamCreate(&stream) == cudaSuccess, "CUDA has no stream");
        std::vector<std::string> names{"encode", "dit", "decode"};
        if (std::ifstream(folder + "/dit_first.engine").good()) names.push_back("dit_first");
        for (const std::string& name : names) graphs.emplace(name, Graph(*runtime, folder, name));
        if (graphs.count("dit_first")) first_units = graphs.at("dit_first").shape("noise").d[0] / kUnitLatents;
        int64_t scratch = 1;  // one block for all: they run one after another
        for (const auto& [name, graph] : graphs) scratch = std::max(scratch, graph.engine->getDeviceMemorySizeV2());
        char* const block = allocate(scratch, "scratch");
        for (const std::string& name : names) {
            const Graph& graph = graphs.at(name);
            graph.context->setDeviceMemoryV2(block, scratch);
            for (const std::string& tensor : graph.tensors) {
                if (begins(tensor, "new_") || buffers.count(graph.buffer(tensor))) continue;
                const int64_t units = is_handed_on(tensor) ? first_units : 1;
                buffers[graph.buffer(tensor)] = allocate(units * graph.bytes(tensor), tensor);
            }
        }
    }

    static char* allocate(int64_t size, const std::string& what) {
        void* address = nullptr;
        check(cudaMalloc(&address, size) == cudaSuccess, "the GPU has no memory for " + what);
        check(cudaMemset(address, 0, size) == cudaSuccess, "clearing " + what + " failed");
        return static_cast<char*>(address);
    }

    // Where a tensor is: `place` counts the units of a step, new keys and values are slots of the ring.
    char* address(const Graph& graph, const std::string& tensor, int64_t place, int64_t slot) const {
        if (begins(tensor, "new_")) {
            const std::string ring = "ring_" + tensor.substr(4);
            return buffers.at(ring) + slot * graph.bytes(ring) / graph.shape(ring).d[0];
        }
        return buffers.at(graph.buffer(tensor)) + (is_handed_on(tensor) ? place * graph.bytes(tensor) : 0);
    }

    void upload(const Graph& graph, const std::string& tensor, const Bytes& content) {
        check(int64_t(content.size()) == graph.bytes(tensor), tensor + " has another size in " + graph.name);
        check(cudaMemcpyAsync(address(graph, tensor, 0, 0), content.data(), content.size(), cudaMemcpyHostToDevice,
                              stream) == cudaSuccess, "copying " + tensor + " failed");
    }

    void run(const Graph& graph, int64_t place, int64_t slot) {
        for (const std::string& tensor : graph.tensors)
            check(graph.context->setTensorAddress(tensor.c_str(), address(graph, tensor, place, slot)),
                  graph.name + " refuses the address of " + tensor);
        check(graph.context->enqueueV3(stream), graph.name + " failed");
        // The next state was written: it is the state from now on, and the old one is written next.
        for (const std::string& tensor : graph.tensors)
            if (graph.has("next_" + tensor)) std::swap(buffers.at(tensor), buffers.at("next_" + tensor));
    }

    void encode(const Bytes& frames, bool first, int64_t place) {
        const Graph& graph = graphs.at("encode");
        upload(graph, "frames", frames);
        upload(graph, "first", Bytes(1, first));
        run(graph, place, 0);
    }

    // Denoise `units` units that were encoded; `seen` units came before them.
    void denoise(int64_t units, int64_t seen, std::mt19937_64& random) {
        const Graph& graph = graphs.at(units == 1 ? "dit" : "dit_first");
        std::normal_distribution<float> normal;
        std::vector<float> noise(graph.bytes("noise") / sizeof(float));
        std::generate(noise.begin(), noise.end(), [&] { return normal(random); });
        std::vector<float> cosines, sines;
        const int64_t pairs = graph.shape("time_cos").d[1], slots = graph.shape("slot_valid").d[0];
        for (int64_t latent = seen * kUnitLatents; latent < (seen + units) * kUnitLatents; ++latent)
            for (int64_t pair = 0; pair < pairs; ++pair) {
                const double angle = latent * std::pow(kTheta, -double(pair) / pairs);
                cosines.push_back(float(std::cos(angle)));
                sines.push_back(float(std::sin(angle)));
            }
        Bytes valid(slots, 0);
        for (int64_t age = 1; age <= std::min(seen, slots - 1); ++age) valid[(seen - age) % slots] = 1;
        upload(graph, "noise", bytes_of(noise));
        upload(graph, "time_cos", bytes_of(cosines));
        upload(graph, "time_sin", bytes_of(sines));
        upload(graph, "slot_valid", valid);
        run(graph, 0, seen % slots);
    }

    Bytes decode(int64_t place) {
        const Graph& graph = graphs.at("decode");
        run(graph, place, 0);
        Bytes frames(graph.bytes("frames"));
        check(cudaMemcpyAsync(frames.data(), address(graph, "frames", 0, 0), frames.size(), cudaMemcpyDeviceToHost,
                              stream) == cudaSuccess, "copying frames failed");
        check(cudaStreamSynchronize(stream) == cudaSuccess, "the GPU failed");
        return frames;
    }
};

void upscale(const std::string& folder, std::istream& input, std::ostream& output) {
    Clip clip(folder);
    std::mt19937_64 random(0);
    const Bytes video = read_all(input);
    const int64_t frame_bytes = clip.graphs.at("encode").bytes("frames") / kUnitFrames;
    const int64_t count = video.size() / frame_bytes;
    const bool whole = count > 0 && count * frame_bytes == int64_t(video.size());
    check(whole, "the input is not whole frames of the engines' size");
    // With look-ahead, encoding is primed with the first frame; without, that frame is repeated before the clip.
    const bool lookahead = clip.graphs.at("encode").has("condition_tail");
    const int64_t shift = lookahead ? 1 : -kWarmUpFrames;
    const auto frames_from = [&](int64_t start, bool repeat) {
        Bytes frames;
        for (int64_t i = start; i < start + kUnitFrames; ++i) {
            const int64_t frame = repeat ? 0 : std::clamp<int64_t>(i + shift, 0, count - 1);
            frames.insert(frames.end(), video.begin() + frame * frame_bytes, video.begin() + (frame + 1) * frame_bytes);
        }
        return frames;
    };
    if (lookahead) clip.encode(frames_from(0, true), true, 0);
    int64_t encoded = 0, skipped = kWarmUpFrames, left = count;
    while (left > 0) {
        const int64_t units = encoded ? 1 : clip.first_units;
        for (int64_t place = 0; place < units; ++place)
            clip.encode(frames_from((encoded + place) * kUnitFrames, false), !encoded && !place && !lookahead, place);
        clip.denoise(units, encoded, random);
        for (int64_t place = 0; place < units; ++place) {
            const Bytes frames = clip.decode(place);
            const int64_t size = frames.size() / kUnitFrames;
            const int64_t made = std::min(left, kUnitFrames - skipped);
            output.write(frames.data() + skipped * size, made * size);
            left -= made;
            skipped = 0;
        }
        encoded += units;
    }
    check(output.flush().good(), "the frames cannot be written");
}

int main(int count, char** arguments) {
    try {
        check(count == 2, "usage: run_engine ENGINES < frames.rgb > upscaled.rgb");
        upscale(arguments[1], std::cin, std::cout);
    } catch (const std::exception& problem) {
        std::cerr << "error: " << problem.what() << '\n';
        return 1;
    }
}
