/*
 * WebP over libwebp, which Pillow uses. libwebpdemux finds the first picture of the file, and
 * libwebp's incremental decoder decodes it: between two pieces of the file the caller may stop it.
 *
 * libwebp takes memory as the file's header asks. How much that is, webp.rs knows before.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <webp/decode.h>
#include <webp/demux.h>

#include "failure.h"

/*
 * Bytes that are decoded between two looks at whether to stop. A lossless picture goes back by up to
 * 8 rows where a piece ends, hence larger pieces.
 */
#define LOSSY_PIECE ((size_t)1 << 16)
#define LOSSLESS_PIECE ((size_t)1 << 20)

/* What the header says. The mirror of `Header` in webp.rs. */
struct photosearch_webp_header {
    uint32_t width, height;
    /* Where the first picture lies on the canvas. */
    uint32_t left, top, frame_width, frame_height;
    /* Whether the alpha channel counts. */
    uint32_t has_alpha;
    /* The file is shorter than it states, and the EXIF that it announces is not in it. */
    uint32_t lacks_exif;
    /* In the file: the picture's chunks, headers included, and the content of its EXIF. */
    uint64_t frame, frame_length;
    uint64_t exif, exif_length;
};

static int fail(struct photosearch_failure *failure, int kind, const char *message)
{
    failure->kind = kind;
    snprintf(failure->message, sizeof failure->message, "%s", message);
    return 0;
}

static int fail_with(struct photosearch_failure *failure, VP8StatusCode status)
{
    switch (status) {
    case VP8_STATUS_OUT_OF_MEMORY:
        return fail(failure, PHOTOSEARCH_OUT_OF_MEMORY, "");
    case VP8_STATUS_UNSUPPORTED_FEATURE:
        return fail(failure, PHOTOSEARCH_UNSUPPORTED, "a frame that is no key frame");
    case VP8_STATUS_NOT_ENOUGH_DATA:
    case VP8_STATUS_SUSPENDED:
        return fail(failure, PHOTOSEARCH_DAMAGED, "the file is cut short");
    case VP8_STATUS_USER_ABORT:
        /* Rows are given to nobody who could want no more, so it is their alpha that is missing. */
        return fail(failure, PHOTOSEARCH_DAMAGED, "its alpha channel cannot be decoded");
    default:
        return fail(failure, PHOTOSEARCH_DAMAGED, "its data cannot be decoded");
    }
}

/*
 * Reads the header of a file, up to the first picture's. Like the function below, returns 1, or 0
 * where it failed, and why in `failure`.
 */
int photosearch_webp_read_header(const uint8_t *bytes, size_t length,
                                 struct photosearch_webp_header *header,
                                 struct photosearch_failure *failure)
{
    WebPBitstreamFeatures features;
    WebPData file = {bytes, length};
    WebPDemuxState state = WEBP_DEMUX_PARSE_ERROR;
    WebPIterator picture;
    WebPChunkIterator exif;

    memset(header, 0, sizeof *header);
    /* The demuxer lets pass what the decoder does not, and the other way round. */
    VP8StatusCode status = WebPGetFeatures(bytes, length, &features);
    if (status == VP8_STATUS_BITSTREAM_ERROR)
        return fail(failure, PHOTOSEARCH_DAMAGED, "its header cannot be read");
    if (status != VP8_STATUS_OK)
        return fail_with(failure, status);
    WebPDemuxer *demuxer = WebPDemuxPartial(&file, &state);
    if (demuxer == NULL && state == WEBP_DEMUX_PARSING_HEADER)
        return fail(failure, PHOTOSEARCH_DAMAGED, "the file is cut short");
    if (demuxer == NULL)
        return fail(failure, PHOTOSEARCH_DAMAGED, "its chunks contradict each other");
    header->width = WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_WIDTH);
    header->height = WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_HEIGHT);
    header->has_alpha = features.has_alpha != 0;
    int found = state != WEBP_DEMUX_PARSING_HEADER && WebPDemuxGetFrame(demuxer, 1, &picture);
    if (found) {
        header->left = (uint32_t)picture.x_offset;
        header->top = (uint32_t)picture.y_offset;
        header->frame_width = (uint32_t)picture.width;
        header->frame_height = (uint32_t)picture.height;
        header->frame = (uint64_t)(picture.fragment.bytes - bytes);
        header->frame_length = picture.fragment.size;
        WebPDemuxReleaseIterator(&picture);
    }
    if (WebPDemuxGetI(demuxer, WEBP_FF_FORMAT_FLAGS) & EXIF_FLAG) {
        if (WebPDemuxGetChunk(demuxer, "EXIF", 1, &exif)) {
            header->exif = (uint64_t)(exif.chunk.bytes - bytes);
            header->exif_length = exif.chunk.size;
            WebPDemuxReleaseChunkIterator(&exif);
        } else {
            header->lacks_exif = state != WEBP_DEMUX_DONE;
        }
    }
    WebPDemuxDelete(demuxer);
    if (!found || header->frame_width == 0 || header->frame_height == 0)
        return fail(failure, PHOTOSEARCH_DAMAGED, "the file is cut short");
    return 1;
}

/*
 * Decodes the chunks of a picture into rows of `stride` bytes each: RGBA where `has_alpha`, else RGB.
 * They must fit into `size` bytes, else it fails. Asks `stop`, with `context`, from time to time
 * whether to end.
 */
int photosearch_webp_decode(const uint8_t *frame, size_t length, int has_alpha, uint8_t *pixels,
                            int stride, size_t size, photosearch_stop stop, void *context,
                            struct photosearch_failure *failure)
{
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return fail(failure, PHOTOSEARCH_UNSUPPORTED, "with the version of the system's libwebp");
    config.output.colorspace = has_alpha ? MODE_RGBA : MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = pixels;
    config.output.u.RGBA.stride = stride;
    config.output.u.RGBA.size = size;
    WebPIDecoder *decoder = WebPIDecode(NULL, 0, &config);
    if (decoder == NULL)
        return fail(failure, PHOTOSEARCH_OUT_OF_MEMORY, "");

    int lossless = length >= 4 && memcmp(frame, "VP8L", 4) == 0;
    size_t piece = lossless ? LOSSLESS_PIECE : LOSSY_PIECE;
    size_t given = 0;
    VP8StatusCode status = VP8_STATUS_SUSPENDED;
    while (status == VP8_STATUS_SUSPENDED && given < length) {
        if (stop(context)) {
            WebPIDelete(decoder);
            return fail(failure, PHOTOSEARCH_STOPPED, "");
        }
        /*
         * A header that has not come to its end is read from its start again, hence with twice as
         * much of it.
         */
        int width = 0;
        WebPIDecodedArea(decoder, NULL, NULL, &width, NULL);
        size_t more = width > 0 || given < piece ? piece : given;
        given = length - given > more ? given + more : length;
        status = WebPIUpdate(decoder, frame, given);
    }
    WebPIDelete(decoder);
    return status == VP8_STATUS_OK ? 1 : fail_with(failure, status);
}
