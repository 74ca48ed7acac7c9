/*
 * HEIC and AVIF by libheif: decodes a file with one coded picture into planes of RGB or grey.
 *
 * heif.rs reads the container itself. For each coded picture in it (each tile of a grid), it writes a
 * file and gives that to libheif. So libheif never reads a container from a stranger, in which invalid
 * boxes can violate its assertions, and it decodes only pictures that heif.rs has checked.
 *
 * libheif is C++ with a C interface, and its functions can throw exceptions, mostly std::bad_alloc. An
 * exception that reached a Rust frame would end the server, so this file calls all of them that can throw in try blocks.
 */
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <libheif/heif.h>
#ifdef PHOTOSEARCH_LIBDE265
#include <libde265/de265.h>
#include <libheif/heif_plugin.h>
#endif

extern "C" {
#include "failure.h"

/* What to decode. `PlanesRequest` in heif/planes.rs is the same struct. */
struct photosearch_heif_request {
    const uint8_t *file;
    size_t length;
    uint32_t width, height;
    /* The most memory in bytes that decoding should take. libheif checks it from 1.20 on, 1.19 for each block. */
    uint64_t memory;
    /* 1 for AV1, 0 for HEVC. */
    int av1;
    /* 1 for one plane of grey, 0 for red, green and blue. */
    int grey;
};

/* The planes of a picture, each of the requested size. `PlaneRows` in heif/planes.rs is the same struct. */
struct photosearch_heif_planes {
    const uint8_t *rows[3];
    /* Bytes from a row to the next. */
    size_t strides[3];
    /* Bits of a sample. Up to 8 bits it has one byte, else two in the machine's byte order. */
    uint32_t depth;
};
}

namespace {

struct Release {
    void operator()(heif_context *context) const { heif_context_free(context); }
    void operator()(heif_image_handle *handle) const { heif_image_handle_release(handle); }
    void operator()(heif_image *image) const { heif_image_release(image); }
    void operator()(heif_decoding_options *options) const { heif_decoding_options_free(options); }
};

template <class T> using Owned = std::unique_ptr<T, Release>;

void report(photosearch_failure *failure, int kind, const char *message)
{
    failure->kind = kind;
    snprintf(failure->message, sizeof failure->message, "%s", message);
}

/* Copies an error of libheif to `failure`, because its message may be freed with the object that made it. */
bool succeeded(const heif_error &error, photosearch_failure *failure)
{
    switch (error.code) {
    case heif_error_Ok:
        return true;
    case heif_error_Memory_allocation_error:
        report(failure,
               error.subcode == heif_suberror_Security_limit_exceeded ? PHOTOSEARCH_TOO_MUCH_MEMORY
                                                                      : PHOTOSEARCH_OUT_OF_MEMORY,
               "");
        return false;
    case heif_error_Unsupported_filetype:
    case heif_error_Unsupported_feature:
    case heif_error_Plugin_loading_error:
        report(failure, PHOTOSEARCH_UNSUPPORTED, error.message);
        return false;
    default:
        /* heif.rs wrote the container, so the coded data are damaged; decoders' messages say little of it. */
        report(failure, PHOTOSEARCH_DAMAGED, "its data cannot be decoded");
        return false;
    }
}

/*
 * While an object of this type lives, malloc returns zeroed memory, except for blocks of up to 1 kB that
 * the thread has freed before. From damaged data, libde265 makes pictures with memory that it has not
 * written. Zeroed memory makes them reproducible, and keeps them from showing earlier content of the
 * memory, but for tiny pictures. (glibc fills new memory with the complement of M_PERTURB. Its cache of
 * each thread does not.)
 */
struct ZeroedMemory {
#ifdef __GLIBC__
    ZeroedMemory() { mallopt(M_PERTURB, 0xff); }
    ~ZeroedMemory() { mallopt(M_PERTURB, 0); }
    ZeroedMemory(const ZeroedMemory &) = delete;
#endif
};

#ifdef PHOTOSEARCH_LIBDE265

/*
 * A plugin with which libheif decodes HEVC by libde265, and which turns libde265's warnings into
 * errors. libde265 decodes damaged data to the end and only warns, and libheif's own plugin ignores
 * the warnings; a search must not take the result for the photo. Unlike libheif's plugin, this one
 * starts no thread.
 */
namespace hevc {

const heif_error fine = {heif_error_Ok, heif_suberror_Unspecified, ""};
const heif_error failed = {heif_error_Decoder_plugin_error, heif_suberror_Unspecified, ""};
const heif_error no_memory = {heif_error_Memory_allocation_error, heif_suberror_Unspecified, ""};

const char *name() { return "libde265, for photosearch"; }

/* A picture that is being decoded. */
struct Decoder {
    de265_decoder_context *context;
    /* The luma plane before the picture is cropped. The stride is in bytes. */
    uint8_t *luma;
    int width, height, stride, depth;
};

/* The value of a luma sample before it is decoded. */
uint16_t noise(const Decoder &decoder, int x, int y)
{
    uint32_t mixed = (static_cast<uint32_t>(y) << 16 | static_cast<uint32_t>(x)) * 2654435761u;
    return static_cast<uint16_t>((mixed >> 16 ^ mixed >> 5) & ((1u << decoder.depth) - 1));
}

/*
 * Allocates the planes of a picture and fills the luma plane with noise. libde265 takes a picture for
 * complete when its data end, and does not clear its memory, so a missing slice would show earlier
 * content of the memory. `is_complete` looks for the noise.
 */
int get_planes(de265_decoder_context *context, de265_image_spec *spec, de265_image *picture,
               void *state)
{
    Decoder &decoder = *static_cast<Decoder *>(state);
    /* `create` says why the filter SAO is disabled. Enable it before the samples are filtered. */
    de265_set_parameter_bool(context, DE265_DECODER_PARAM_DISABLE_SAO, 0);
    de265_chroma chroma = de265_get_chroma_format(picture);
    int planes = chroma == de265_chroma_mono ? 1 : 3;
    uint8_t *made[3] = {nullptr, nullptr, nullptr};
    int strides[3] = {0, 0, 0};
    for (int i = 0; i < planes; i++) {
        int width = spec->width, height = spec->height;
        if (i > 0 && chroma != de265_chroma_444)
            width /= 2;
        if (i > 0 && chroma == de265_chroma_420)
            height /= 2;
        strides[i] = (width + spec->alignment - 1) / spec->alignment * spec->alignment;
        strides[i] *= de265_get_bits_per_pixel(picture, i) > 8 ? 2 : 1;
        /* libde265 reads a few bytes beyond the end. */
        size_t bytes = static_cast<size_t>(strides[i]) * static_cast<size_t>(height) + 64;
        void *memory = nullptr;
        if (posix_memalign(&memory, 64, bytes) != 0) {
            for (uint8_t *plane : made)
                free(plane);
            return 0;
        }
        made[i] = static_cast<uint8_t *>(memory);
        memset(memory, 0, bytes);
    }
    decoder.luma = made[0];
    decoder.width = spec->width;
    decoder.height = spec->height;
    decoder.stride = strides[0];
    decoder.depth = de265_get_bits_per_pixel(picture, 0);
    for (int y = 0; y < decoder.height; y++)
        for (int x = 0; x < decoder.width; x++) {
            uint8_t *row = made[0] + static_cast<size_t>(y) * static_cast<size_t>(decoder.stride);
            uint16_t sample = noise(decoder, x, y);
            if (decoder.depth > 8)
                memcpy(row + 2 * x, &sample, 2);
            else
                row[x] = static_cast<uint8_t>(sample);
        }
    for (int i = 0; i < 3; i++)
        de265_set_image_plane(picture, i, made[i], strides[i], made[i]);
    return 1;
}

void release_planes(de265_decoder_context *, de265_image *picture, void *)
{
    for (int i = 0; i < 3; i++)
        free(de265_get_image_plane_user_data(picture, i));
}

bool is_noise(const Decoder &decoder, int x, int y)
{
    const uint8_t *row = decoder.luma + static_cast<size_t>(y) * static_cast<size_t>(decoder.stride);
    uint16_t sample;
    if (decoder.depth > 8)
        memcpy(&sample, row + 2 * x, 2);
    else
        sample = row[x];
    return sample == noise(decoder, x, y);
}

/*
 * Whether every block was decoded, which means that none still has its noise. Coding tree blocks have
 * at least 16 x 16 samples, except at the right and lower edge, where blocks of up to 6 samples are not
 * checked. Filtering of neighbours changes up to
 * three samples inside the edges of a block, so these are not compared.
 */
bool is_complete(const Decoder &decoder)
{
    for (int top = 0; top < decoder.height; top += 16)
        for (int left = 0; left < decoder.width; left += 16) {
            int right = std::min(left + 16, decoder.width) - 3;
            int bottom = std::min(top + 16, decoder.height) - 3;
            bool missing = right > left + 3 && bottom > top + 3;
            for (int y = top + 3; missing && y < bottom; y++)
                for (int x = left + 3; missing && x < right; x++)
                    missing = is_noise(decoder, x, y);
            if (missing)
                return false;
        }
    return true;
}

/* The lowest priority: the plugin is selected by its ID. */
int priority(heif_compression_format format) { return format == heif_compression_HEVC ? 1 : 0; }

heif_error create(void **out)
{
    Decoder *decoder = new (std::nothrow) Decoder();
    if (decoder == nullptr)
        return no_memory;
    decoder->context = de265_new_decoder();
    if (decoder->context == nullptr) {
        delete decoder;
        return no_memory;
    }
    /*
     * libde265 calls get_planes only while SAO (sample adaptive offset) is disabled. So it is disabled until
     * get_planes is called, which enables it again.
     */
    de265_set_parameter_bool(decoder->context, DE265_DECODER_PARAM_DISABLE_SAO, 1);
    de265_image_allocation allocation = {get_planes, release_planes};
    de265_set_image_allocation_functions(decoder->context, &allocation, decoder);
    *out = decoder;
    return fine;
}

void release(void *state)
{
    Decoder *decoder = static_cast<Decoder *>(state);
    de265_free_decoder(decoder->context);
    delete decoder;
}

/* Passes NAL units, with a length of 32 bits before each, to libde265. */
heif_error push_all(de265_decoder_context *context, const uint8_t *bytes, size_t size)
{
    while (size >= 4) {
        size_t length = static_cast<size_t>(bytes[0]) << 24 | static_cast<size_t>(bytes[1]) << 16 |
                        static_cast<size_t>(bytes[2]) << 8 | bytes[3];
        if (length > size - 4 || length > INT32_MAX)
            return failed;
        if (de265_push_NAL(context, bytes + 4, static_cast<int>(length), 0, nullptr) != DE265_OK)
            return failed;
        bytes += 4 + length;
        size -= 4 + length;
    }
    return size == 0 && de265_flush_data(context) == DE265_OK ? fine : failed;
}

/* Turns exceptions into errors: libheif would not release the decoder after an exception. */
template <class F> heif_error caught(F call)
{
    try {
        return call();
    } catch (const std::bad_alloc &) {
        return no_memory;
    } catch (...) {
        return failed;
    }
}

heif_error push(void *state, const void *data, size_t size)
{
    Decoder *decoder = static_cast<Decoder *>(state);
    return caught([&] {
        return push_all(decoder->context, static_cast<const uint8_t *>(data), size);
    });
}

/* Whether libde265 has warned of damage. Warnings about its threads and about SEI are ignored. */
bool warned(de265_decoder_context *context)
{
    for (;;) {
        switch (de265_get_warning(context)) {
        case DE265_OK:
            return false;
        case DE265_WARNING_NO_WPP_CANNOT_USE_MULTITHREADING:
        case DE265_WARNING_NUMBER_OF_THREADS_LIMITED_TO_MAXIMUM:
        case DE265_WARNING_SPS_MISSING_CANNOT_DECODE_SEI:
            break;
        default:
            return true;
        }
    }
}

heif_error copy(const de265_image *picture, heif_image *image)
{
    static const heif_channel channels[3] = {heif_channel_Y, heif_channel_Cb, heif_channel_Cr};
    int planes = de265_get_chroma_format(picture) == de265_chroma_mono ? 1 : 3;
    int depth = de265_get_bits_per_pixel(picture, 0);
    for (int i = 0; i < planes; i++) {
        int width = de265_get_image_width(picture, i), height = de265_get_image_height(picture, i);
        if (width <= 0 || height <= 0 || de265_get_bits_per_pixel(picture, i) != depth)
            return failed;
        heif_error added = heif_image_add_plane(image, channels[i], width, height, depth);
        if (added.code != heif_error_Ok)
            return added;
        int from_stride = 0, to_stride = 0;
        const uint8_t *from = de265_get_image_plane(picture, i, &from_stride);
        uint8_t *to = heif_image_get_plane(image, channels[i], &to_stride);
        size_t bytes = static_cast<size_t>(width) * (depth > 8 ? 2 : 1);
        if (from == nullptr || to == nullptr)
            return failed;
        for (int y = 0; y < height; y++)
            memcpy(to + static_cast<size_t>(y) * static_cast<size_t>(to_stride),
                   from + static_cast<size_t>(y) * static_cast<size_t>(from_stride), bytes);
    }
    return fine;
}

heif_error decode_picture(const Decoder &decoder, heif_image **out)
{
    const de265_image *picture = nullptr;
    int more = 1;
    while (picture == nullptr && more) {
        more = 0;
        if (de265_decode(decoder.context, &more) != DE265_OK || warned(decoder.context))
            return failed;
        picture = de265_peek_next_picture(decoder.context);
    }
    if (picture == nullptr || de265_get_image_plane_user_data(picture, 0) != decoder.luma ||
        !is_complete(decoder))
        return failed;
    de265_chroma chroma = de265_get_chroma_format(picture);
    Owned<heif_image> image;
    heif_image *raw_image = nullptr;
    /* The chroma formats have the same numbers in libheif and in HEVC. */
    heif_error made = heif_image_create(
        de265_get_image_width(picture, 0), de265_get_image_height(picture, 0),
        chroma == de265_chroma_mono ? heif_colorspace_monochrome : heif_colorspace_YCbCr,
        static_cast<heif_chroma>(chroma), &raw_image);
    if (made.code != heif_error_Ok)
        return made;
    image.reset(raw_image);
    heif_error copied = copy(picture, image.get());
    if (copied.code == heif_error_Ok)
        *out = image.release();
    return copied;
}

heif_error decode(void *state, heif_image **out)
{
    Decoder *decoder = static_cast<Decoder *>(state);
    return caught([&] { return decode_picture(*decoder, out); });
}

void set_strict(void *, int) {}

const char id[] = "photosearch";

bool register_plugin()
{
    /* Static, because libheif keeps a pointer to the plugin. */
    static heif_decoder_plugin plugin = {};
    /*
     * Plugins of API version 3 work up to libheif 1.20. With later versions, libheif's own plugin decodes, and
     * less damage is noticed.
     */
    if (heif_get_version_number() >= LIBHEIF_MAKE_VERSION(1u, 21u, 0u))
        return false;
    plugin.plugin_api_version = 3;
    plugin.get_plugin_name = name;
    plugin.does_support_format = priority;
    plugin.new_decoder = create;
    plugin.free_decoder = release;
    plugin.push_data = push;
    plugin.decode_image = decode;
    plugin.set_strict_decoding = set_strict;
    plugin.id_name = id;
    return de265_init() == DE265_OK && heif_register_decoder_plugin(&plugin).code == heif_error_Ok;
}

} // namespace hevc

#endif

/*
 * Initialises libheif once in a process, and never releases it: libheif counts the users, and would
 * load its plugins again each time the count rises from 0.
 */
bool ready()
{
    static const bool started = heif_init(nullptr).code == heif_error_Ok;
    return started;
}

/*
 * The ID of the decoder to use, or NULL for the one that libheif prefers, which is dav1d for AV1. aom is
 * better at finding damage: it checks that the data of each tile of a frame end where they should, and
 * so finds nearly all damage. dav1d before 1.4 has no such check, and later versions find a third of the
 * damage. aom takes twice the time, but starts no threads.
 */
const char *choose(heif_compression_format format)
{
    if (format == heif_compression_HEVC) {
#ifdef PHOTOSEARCH_LIBDE265
        static const bool registered = hevc::register_plugin();
        return registered ? hevc::id : nullptr;
#else
        return nullptr;
#endif
    }
    const heif_decoder_descriptor *found[16];
    int count = heif_get_decoder_descriptors(format, found, 16);
    for (int i = 0; i < count; i++) {
        const char *name = heif_decoder_descriptor_get_id_name(found[i]);
        if (name != nullptr && strcmp(name, "aom") == 0)
            return "aom";
    }
    return nullptr;
}

void limit(heif_context *context, const photosearch_heif_request &request)
{
    uint32_t longest = request.width > request.height ? request.width : request.height;
    /* Plus 1, because libheif 1.15 refuses some pictures whose side equals the limit. */
    heif_context_set_maximum_image_size_limit(context, static_cast<int>(longest) + 1);
    /*
     * No threads of libheif. dav1d, and libheif's plugin for libde265, still start threads; these
     * inherit the signal mask of this thread.
     */
    heif_context_set_max_decoding_threads(context, 0);
#if LIBHEIF_HAVE_VERSION(1, 19, 0)
    heif_security_limits *limits = heif_context_get_security_limits(context);
    limits->max_image_size_pixels = static_cast<uint64_t>(request.width + 64) * (request.height + 64);
    limits->max_memory_block_size = request.memory;
#if LIBHEIF_HAVE_VERSION(1, 20, 0)
    if (limits->version >= 2)
        limits->max_total_memory = request.memory;
#endif
#endif
}

bool decode(const photosearch_heif_request &request, Owned<heif_image> &image,
            photosearch_failure *failure)
{
    if (!ready()) {
        report(failure, PHOTOSEARCH_UNSUPPORTED, "as libheif cannot be initialised");
        return false;
    }
    heif_compression_format format = request.av1 ? heif_compression_AV1 : heif_compression_HEVC;
    const char *decoder = choose(format);
    if (!heif_have_decoder_for_format(format)) {
        report(failure, PHOTOSEARCH_UNSUPPORTED,
               request.av1 ? "whose decoder (dav1d or aom) is not installed with libheif"
                           : "whose decoder (libde265) is not installed with libheif");
        return false;
    }
    Owned<heif_context> context(heif_context_alloc());
    Owned<heif_decoding_options> options(heif_decoding_options_alloc());
    if (!context || !options)
        throw std::bad_alloc();
    limit(context.get(), request);
    if (!succeeded(heif_context_read_from_memory_without_copy(context.get(), request.file,
                                                              request.length, nullptr),
                   failure))
        return false;
    heif_image_handle *raw_handle = nullptr;
    if (!succeeded(heif_context_get_primary_image_handle(context.get(), &raw_handle), failure))
        return false;
    Owned<heif_image_handle> handle(raw_handle);

    /*
     * `strict_decoding` is not set: for a single picture it only adds an error if the coded data state
     * unassigned colour numbers, and heif.rs has checked the colours.
     */
    options->decoder_id = decoder;
    heif_image *raw_image = nullptr;
    if (!succeeded(heif_decode_image(handle.get(), &raw_image,
                                     request.grey ? heif_colorspace_monochrome : heif_colorspace_RGB,
                                     request.grey ? heif_chroma_monochrome : heif_chroma_444,
                                     options.get()),
                   failure))
        return false;
    image.reset(raw_image);
    return true;
}

/* Stores in `planes` where the samples are, after a check of their size and depth. */
bool find_planes(const photosearch_heif_request &request, const heif_image *image,
                 photosearch_heif_planes *planes, photosearch_failure *failure)
{
    static const heif_channel colours[3] = {heif_channel_R, heif_channel_G, heif_channel_B};
    static const heif_channel greys[1] = {heif_channel_Y};
    const heif_channel *channels = request.grey ? greys : colours;
    planes->depth = 0;
    for (int i = 0; i < (request.grey ? 1 : 3); i++) {
        int depth = heif_image_get_bits_per_pixel_range(image, channels[i]);
        int stride = 0;
        planes->rows[i] = heif_image_get_plane_readonly(image, channels[i], &stride);
        planes->strides[i] = static_cast<size_t>(stride);
        if (planes->rows[i] == nullptr || stride <= 0 || depth < 8 || depth > 16 ||
            (i > 0 && static_cast<uint32_t>(depth) != planes->depth) ||
            heif_image_get_width(image, channels[i]) != static_cast<int>(request.width) ||
            heif_image_get_height(image, channels[i]) != static_cast<int>(request.height) ||
            static_cast<size_t>(stride) < static_cast<size_t>(request.width) * (depth > 8 ? 2 : 1)) {
            report(failure, PHOTOSEARCH_DAMAGED, "its data have another size than it states");
            return false;
        }
        planes->depth = static_cast<uint32_t>(depth);
    }
    return true;
}

} // namespace

/*
 * Decodes the primary picture of a file. Returns it and stores its planes in `planes`; the caller
 * releases it by photosearch_heif_free. Or returns NULL and the reason in `failure`. This cannot be
 * interrupted: libheif calls `cancel_decoding` only between the tiles of a grid.
 */
extern "C" heif_image *photosearch_heif_decode(const photosearch_heif_request *request,
                                               photosearch_heif_planes *planes,
                                               photosearch_failure *failure) noexcept
{
    ZeroedMemory zeroed;
    try {
        Owned<heif_image> image;
        if (decode(*request, image, failure) &&
            find_planes(*request, image.get(), planes, failure))
            return image.release();
    } catch (const std::bad_alloc &) {
        report(failure, PHOTOSEARCH_OUT_OF_MEMORY, "");
    } catch (const std::exception &error) {
        report(failure, PHOTOSEARCH_DAMAGED, error.what());
    } catch (...) {
        report(failure, PHOTOSEARCH_DAMAGED, "the decoder failed");
    }
    return nullptr;
}

extern "C" void photosearch_heif_free(heif_image *image) noexcept
{
    heif_image_release(image);
}
