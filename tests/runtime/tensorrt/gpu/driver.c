// A driver without a GPU: the calls that clip-edge makes, on the host's memory, declared by NVIDIA's own header, so that
// the compiler checks their types. It is as strict as the real one where order matters: work on a stream is done when
// the stream is synchronised, not before; between the calls of a capture it is written down; what lies outside of
// allocated memory is refused.
#include <cuda.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#undef cuEventElapsedTime  // the header means its second version; the first is in every driver

typedef void (*Kernel)(void *argument);
enum Kind { TO_DEVICE, TO_HOST, MARK, KERNEL };
struct Work {
    enum Kind kind;
    CUdeviceptr address;
    void *host;
    size_t size;
    Kernel kernel;
    void *argument;
};
struct List {
    struct Work items[1024];
    int count;
};
struct CUstream_st {
    struct List queue, written;
    int capturing, spoiled;
};
struct CUgraph_st {
    struct List work;
};
struct CUgraphExec_st {
    struct List work;
};
struct CUevent_st {
    double at_ms;
    int passed;
};

#define MAX_BLOCKS 256
static struct {
    char *start;
    size_t size;
} blocks[MAX_BLOCKS];
static double clock_ms;
int live;           // streams, events, graphs and blocks that were made and not given back
int launches;       // of graphs
int refuse_capture;  // what a layer that cannot be captured does
size_t memory_left = (size_t)1 << 30;

static int holds(CUdeviceptr address, size_t size) {
    char *start = (char *)(uintptr_t)address;
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (blocks[i].start && start >= blocks[i].start && start + size <= blocks[i].start + blocks[i].size) return 1;
    return 0;
}

static void do_all(const struct List *list) {
    for (int i = 0; i < list->count; i++) {
        const struct Work *work = &list->items[i];
        clock_ms += 0.25;  // every piece takes as long
        if (work->kind == TO_DEVICE) memcpy((void *)(uintptr_t)work->address, work->host, work->size);
        if (work->kind == TO_HOST) memcpy(work->host, (void *)(uintptr_t)work->address, work->size);
        if (work->kind == KERNEL) work->kernel(work->argument);
        if (work->kind == MARK) {
            struct CUevent_st *event = work->argument;
            event->at_ms = clock_ms, event->passed = 1;
        }
    }
}

static CUresult add(CUstream stream, struct Work work) {
    struct List *list = stream->capturing ? &stream->written : &stream->queue;
    if (list->count == 1024) return CUDA_ERROR_OUT_OF_MEMORY;
    list->items[list->count++] = work;
    return CUDA_SUCCESS;
}

// What an engine does in place of starting kernels. The only call that NVIDIA's driver has not.
CUresult enqueue(CUstream stream, Kernel kernel, void *argument) {
    if (stream->capturing && refuse_capture) {
        stream->spoiled = 1;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return add(stream, (struct Work){KERNEL, 0, 0, 0, kernel, argument});
}

CUresult cuInit(unsigned int flags) { return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS; }
CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "a call that the real driver refuses";
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetCount(int *count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { return *device = ordinal, CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    return *context = (CUcontext)(uintptr_t)(0x1000 + device), CUDA_SUCCESS;
}
CUresult cuCtxSetCurrent(CUcontext context) {
    return context == (CUcontext)0x1000 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}
CUresult cuDeviceGetName(char *name, int size, CUdevice device) {
    return snprintf(name, size, "Simulated GPU %d", device), CUDA_SUCCESS;
}
CUresult cuMemGetInfo(size_t *free_bytes, size_t *total) {
    return *free_bytes = memory_left, *total = (size_t)1 << 30, CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    (void)device;
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 8 : 7;
    return CUDA_SUCCESS;
}
CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
    if (flags != CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
    return *stream = calloc(1, sizeof **stream), live++, CUDA_SUCCESS;
}
CUresult cuStreamDestroy(CUstream stream) { return free(stream), live--, CUDA_SUCCESS; }
CUresult cuMemAlloc(CUdeviceptr *address, size_t size) {
    if (size > memory_left) return CUDA_ERROR_OUT_OF_MEMORY;
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (!blocks[i].start) {
            blocks[i].start = malloc(size), blocks[i].size = size, memory_left -= size, live++;
            return *address = (CUdeviceptr)(uintptr_t)blocks[i].start, CUDA_SUCCESS;
        }
    return CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemFree(CUdeviceptr address) {
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (blocks[i].start && (CUdeviceptr)(uintptr_t)blocks[i].start == address) {
            free(blocks[i].start), memory_left += blocks[i].size, live--;
            return blocks[i].start = NULL, CUDA_SUCCESS;
        }
    return CUDA_ERROR_INVALID_VALUE;
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t size, CUstream stream) {
    if (!holds(to, size)) return CUDA_ERROR_INVALID_VALUE;
    return add(stream, (struct Work){TO_DEVICE, to, (void *)from, size, 0, 0});
}
CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t size, CUstream stream) {
    if (!holds(from, size)) return CUDA_ERROR_INVALID_VALUE;
    return add(stream, (struct Work){TO_HOST, from, to, size, 0, 0});
}
CUresult cuStreamSynchronize(CUstream stream) {
    if (stream->capturing) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return do_all(&stream->queue), stream->queue.count = 0, CUDA_SUCCESS;
}
CUresult cuEventCreate(CUevent *event, unsigned int flags) {
    if (flags != CU_EVENT_DEFAULT) return CUDA_ERROR_INVALID_VALUE;
    return *event = calloc(1, sizeof **event), live++, CUDA_SUCCESS;
}
CUresult cuEventDestroy(CUevent event) { return free(event), live--, CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent event, CUstream stream) {
    return event->passed = 0, add(stream, (struct Work){MARK, 0, 0, 0, 0, event});
}
CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    if (!start->passed || !end->passed) return CUDA_ERROR_NOT_READY;
    return *milliseconds = (float)(end->at_ms - start->at_ms), CUDA_SUCCESS;
}
CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
    if (stream->capturing || mode != CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) return CUDA_ERROR_INVALID_VALUE;
    return stream->capturing = 1, stream->spoiled = 0, stream->written.count = 0, CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
    if (!stream->capturing) return CUDA_ERROR_INVALID_VALUE;
    stream->capturing = 0, *graph = NULL;
    if (stream->spoiled) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *graph = calloc(1, sizeof **graph), (*graph)->work = stream->written, live++;
    return CUDA_SUCCESS;
}
CUresult cuGraphInstantiate(CUgraphExec *executable, CUgraph graph, unsigned long long flags) {
    if (!graph || flags) return CUDA_ERROR_INVALID_VALUE;
    *executable = calloc(1, sizeof **executable), (*executable)->work = graph->work, live++;
    return CUDA_SUCCESS;
}
CUresult cuGraphDestroy(CUgraph graph) { return free(graph), live--, CUDA_SUCCESS; }
CUresult cuGraphExecDestroy(CUgraphExec executable) { return free(executable), live--, CUDA_SUCCESS; }
CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
    launches++;
    for (int i = 0; i < executable->work.count; i++) add(stream, executable->work.items[i]);
    return CUDA_SUCCESS;
}
