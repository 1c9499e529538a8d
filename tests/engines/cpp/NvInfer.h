// What docs/run_engine.cpp uses of TensorRT's NvInferRuntime.h (10.15), with the same names, types and qualifiers.
// An engine's file is text here, one tensor a line: name, mode, dtype, rank, sides. A run fills the outputs with
// words that depend on every byte of the inputs; tests/engines/test_run_engine.py computes the same.
#pragma once
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace nvinfer1 {

enum class DataType : int32_t { kFLOAT, kHALF, kINT8, kINT32, kBOOL, kUINT8, kFP8, kBF16 };
enum class TensorIOMode : int32_t { kNONE, kINPUT, kOUTPUT };
enum class ExecutionContextAllocationStrategy : int32_t { kSTATIC, kON_PROFILE_CHANGE, kUSER_MANAGED };

struct Dims {
    int32_t nbDims;
    int64_t d[8];
};

class ILogger {
public:
    enum class Severity : int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
    virtual void log(Severity severity, char const* msg) noexcept = 0;
    virtual ~ILogger() = default;
};

constexpr int64_t kScratchBytes = 4096;

struct TensorOfDouble {
    std::string name;
    TensorIOMode mode;
    DataType type;
    Dims shape;
    int64_t bytes;
};

class IExecutionContext {
public:
    explicit IExecutionContext(std::vector<TensorOfDouble> const& tensors) : tensors_(tensors) {}
    virtual ~IExecutionContext() noexcept = default;

    bool setTensorAddress(char const* tensorName, void* data) noexcept {
        addresses_[tensorName] = static_cast<unsigned char*>(data);
        return data != nullptr;
    }

    void setDeviceMemoryV2(void* memory, int64_t size) noexcept {
        if (size >= kScratchBytes) scratch_ = memory;
    }

    bool enqueueV3(cudaStream_t) noexcept {
        if (addresses_.size() != tensors_.size() || scratch_ == nullptr) return false;
        std::memset(scratch_, 0x5A, kScratchBytes);
        uint64_t seen = 0;
        for (auto const& tensor : tensors_)
            if (tensor.mode == TensorIOMode::kINPUT) seen = (seen ^ summed(tensor)) * kMix;
        for (auto const& tensor : tensors_)
            if (tensor.mode == TensorIOMode::kOUTPUT) {
                seen += 1;
                for (int64_t i = 0; i < tensor.bytes; i += 8) {
                    uint64_t const word = (seen + i) * kMix;
                    std::memcpy(addresses_[tensor.name] + i, &word, 8);
                }
            }
        return true;
    }

private:
    static constexpr uint64_t kMix = 0x9E3779B97F4A7C15;

    // Noise is another in every program, and the last bit of a cosine may be. A sixteenth counts as often as it is
    // far from the start, so that slots of the ring that change places show.
    uint64_t summed(TensorOfDouble const& tensor) {
        unsigned char const* start = addresses_[tensor.name];
        uint64_t sum = 0;
        if (tensor.name == "noise") return sum;
        if (tensor.name.rfind("time_", 0) == 0) {
            auto const* values = reinterpret_cast<float const*>(start);
            for (int64_t i = 0; i < tensor.bytes / 4; ++i)
                sum += static_cast<uint64_t>(i + 1) * static_cast<uint64_t>(std::llround(values[i] * 100));
            return sum;
        }
        int64_t const size = tensor.bytes % 8 ? 1 : 8, count = tensor.bytes / size, part = (count + 15) / 16;
        for (int64_t i = 0; i < count; ++i) {
            uint64_t word = 0;
            std::memcpy(&word, start + i * size, size);
            sum += static_cast<uint64_t>(i / part + 1) * word;
        }
        return sum;
    }

    std::vector<TensorOfDouble> tensors_;
    std::map<std::string, unsigned char*> addresses_;
    void* scratch_ = nullptr;
};

class ICudaEngine {
public:
    explicit ICudaEngine(std::string const& text) {
        std::istringstream lines(text);
        std::string line;
        while (std::getline(lines, line)) {
            TensorOfDouble tensor{};
            std::istringstream words(line);
            std::string mode, type;
            words >> tensor.name >> mode >> type >> tensor.shape.nbDims;
            tensor.mode = mode == "input" ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
            tensor.type = type == "float32"    ? DataType::kFLOAT
                          : type == "bfloat16" ? DataType::kBF16
                          : type == "float16"  ? DataType::kHALF
                          : type == "bool"     ? DataType::kBOOL
                                               : DataType::kUINT8;
            tensor.bytes = type == "float32" ? 4 : type == "bool" || type == "uint8" ? 1 : 2;
            for (int32_t i = 0; i < tensor.shape.nbDims; ++i) {
                words >> tensor.shape.d[i];
                tensor.bytes *= tensor.shape.d[i];
            }
            tensors_.push_back(tensor);
        }
    }
    virtual ~ICudaEngine() noexcept = default;

    int32_t getNbIOTensors() const noexcept { return static_cast<int32_t>(tensors_.size()); }
    char const* getIOTensorName(int32_t index) const noexcept { return tensors_[index].name.c_str(); }
    Dims getTensorShape(char const* tensorName) const noexcept { return find(tensorName).shape; }
    DataType getTensorDataType(char const* tensorName) const noexcept { return find(tensorName).type; }
    int64_t getDeviceMemorySizeV2() const noexcept { return kScratchBytes; }
    IExecutionContext* createExecutionContext(
        ExecutionContextAllocationStrategy strategy = ExecutionContextAllocationStrategy::kSTATIC) noexcept {
        bool const managed = strategy == ExecutionContextAllocationStrategy::kUSER_MANAGED;
        return managed ? new IExecutionContext(tensors_) : nullptr;
    }

private:
    TensorOfDouble const& find(std::string const& name) const noexcept {
        for (auto const& tensor : tensors_)
            if (tensor.name == name) return tensor;
        std::terminate();
    }

    std::vector<TensorOfDouble> tensors_;
};

class IRuntime {
public:
    virtual ~IRuntime() noexcept = default;
    ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept {
        std::string const text(static_cast<char const*>(blob), size);
        return text.empty() ? nullptr : new ICudaEngine(text);
    }
};

inline IRuntime* createInferRuntime(ILogger&) noexcept { return new IRuntime; }

}  // namespace nvinfer1
