// The CUDA runtime's functions that docs/run_engine.cpp calls, on the host's memory. New memory is not zeros.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

extern "C" {
cudaError_t cudaMalloc(void** address, size_t size) {
    *address = std::malloc(size);
    std::memset(*address, 0x5A, size);
    return cudaSuccess;
}
cudaError_t cudaMemset(void* address, int value, size_t count) {
    std::memset(address, value, count);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t count, cudaMemcpyKind, cudaStream_t) {
    std::memcpy(target, source, count);
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t*) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
}
