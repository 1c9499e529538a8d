/* Counts the calls of CUDA's runtime that wait or allocate, whoever makes them: preloaded, it stands before
   libcudart. Build: gcc -shared -fPIC -O2 -o libcuda_calls.so cuda_calls.c -ldl. Read with cuda_calls(name). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

typedef int (*any)(void *, void *, void *, void *, void *, void *);

static struct { const char *name; long calls; any real; } table[] = {
    {"cudaStreamSynchronize", 0, NULL}, {"cudaDeviceSynchronize", 0, NULL}, {"cudaEventSynchronize", 0, NULL},
    {"cudaMemcpy", 0, NULL},            {"cudaMemcpyAsync", 0, NULL},       {"cudaMalloc", 0, NULL},
    {"cudaFree", 0, NULL},              {"cudaMallocHost", 0, NULL},        {"cudaLaunchHostFunc", 0, NULL},
};

static int forward(int i, void *a, void *b, void *c, void *d, void *e, void *f) {
    if (!table[i].real) table[i].real = (any)dlsym(RTLD_NEXT, table[i].name);
    if (!table[i].real) {
        void *library = dlopen("libcudart.so.13", RTLD_NOW | RTLD_NOLOAD);
        table[i].real = (any)dlsym(library, table[i].name);
    }
    __atomic_add_fetch(&table[i].calls, 1, __ATOMIC_RELAXED);
    return table[i].real(a, b, c, d, e, f);
}

#define COUNTED(i, name) \
    int name(void *a, void *b, void *c, void *d, void *e, void *f) { return forward(i, a, b, c, d, e, f); }

COUNTED(0, cudaStreamSynchronize)
COUNTED(1, cudaDeviceSynchronize)
COUNTED(2, cudaEventSynchronize)
COUNTED(3, cudaMemcpy)
COUNTED(4, cudaMemcpyAsync)
COUNTED(5, cudaMalloc)
COUNTED(6, cudaFree)
COUNTED(7, cudaMallocHost)
COUNTED(8, cudaLaunchHostFunc)

long cuda_calls(const char *name) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(table[i].name, name)) return table[i].calls;
    return -1;
}
