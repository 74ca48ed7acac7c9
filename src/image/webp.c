/*
 * WebP by libwebp, the library that Pillow uses. libwebpdemux finds the first picture of the file, and
 * libwebp's incremental decoder decodes it piece by piece, so that the caller can stop it in between.
 *
 * libwebp allocates as much memory as the file's header asks for. webp.rs computes the amount before it
 * calls the decoder.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <webp/decode.h>
#include <webp/demux.h>

#include "failure.h"

/*
 * The decoder gets the file in pieces, and `stop` is asked before each piece. A piece has at most
 * this many bytes. When a lossless picture is resumed, up to 8 rows are decoded again, hence the larger
 * pieces.
 */
#define LOSSY_PIECE ((size_t)1 << 16)
#define LOSSLESS_PIECE ((size_t)1 << 20)
/*
 * A piece also has at most the bytes that this many pixels take on average, but never fewer than
 * SMALLEST_PIECE.
 *
 * libwebp offers no way to stop inside a piece. A bit stream whose codes are empty, or whose bytes are
 * spread unevenly, can hold all its pixels in one piece: then `stop` waits for the whole picture, 1 to
 * 3 s for the 16,383 x 16,383 pixels that WebP allows.
 */
#define PIECE_PIXELS ((uint64_t)1 << 22)
#define SMALLEST_PIECE ((size_t)256)

/* What the headers say. `WebpHeader` in webp.rs is the same struct. */
struct photosearch_webp_header {
    uint32_t width, height;
    /* The rectangle of the first picture on the canvas. */
    uint32_t left, top, frame_width, frame_height;
    /* 1 if the picture has an alpha channel. */
    uint32_t has_alpha;
    /* 1 if the file announces EXIF, but ends before it. */
    uint32_t lacks_exif;
    /* Offset and length in the file: the picture's chunks with their headers, the content of its EXIF. */
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
    case VP8_STATUS_NOT_ENOUGH_DATA:
    case VP8_STATUS_SUSPENDED:
        return fail(failure, PHOTOSEARCH_DAMAGED, "the file is cut short");
    case VP8_STATUS_USER_ABORT:
        /* libwebp also reports this status when the alpha channel of a row cannot be decoded. */
        return fail(failure, PHOTOSEARCH_DAMAGED, "its alpha channel cannot be decoded");
    default:
        return fail(failure, PHOTOSEARCH_DAMAGED, "its data cannot be decoded");
    }
}

/*
 * Reads the headers of a file and of its first picture. Returns 1, or 0 and the reason in `failure`.
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
    /* Check with both libraries: the demuxer accepts headers that the decoder refuses, and vice versa. */
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

/* The length of the pieces of a frame: see PIECE_PIXELS. `length` is below 1 << 33, so the product fits. */
static size_t piece_length(size_t length, uint64_t pixels, size_t longest)
{
    uint64_t average = pixels > PIECE_PIXELS ? (uint64_t)length * PIECE_PIXELS / pixels : length;
    if (average > longest)
        return longest;
    return average < SMALLEST_PIECE ? SMALLEST_PIECE : (size_t)average;
}

/*
 * Decodes the chunks of a picture, `frame`, into rows of `stride` bytes each: RGBA if `has_alpha`, else
 * RGB. Fails if the rows take more than the `size` bytes of `pixels`. Ends when `stop`, which is called
 * with `context` before each piece, returns non-zero. Returns 1, or 0 and the reason in `failure`.
 */
int photosearch_webp_decode(const uint8_t *frame, size_t length, uint64_t pixel_count, int has_alpha,
                            uint8_t *pixels, int stride, size_t size, photosearch_stop stop, void *context,
                            struct photosearch_failure *failure)
{
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return fail(failure, PHOTOSEARCH_UNSUPPORTED, "as the system's libwebp has an incompatible version");
    config.output.colorspace = has_alpha ? MODE_RGBA : MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = pixels;
    config.output.u.RGBA.stride = stride;
    config.output.u.RGBA.size = size;
    WebPIDecoder *decoder = WebPIDecode(NULL, 0, &config);
    if (decoder == NULL)
        return fail(failure, PHOTOSEARCH_OUT_OF_MEMORY, "");

    int lossless = length >= 4 && memcmp(frame, "VP8L", 4) == 0;
    size_t piece = piece_length(length, pixel_count, lossless ? LOSSLESS_PIECE : LOSSY_PIECE);
    size_t given = 0;
    VP8StatusCode status = VP8_STATUS_SUSPENDED;
    while (status == VP8_STATUS_SUSPENDED && given < length) {
        if (stop(context)) {
            WebPIDelete(decoder);
            return fail(failure, PHOTOSEARCH_STOPPED, "");
        }
        /*
         * While the header is incomplete, libwebp reads it again from its start with each piece. Double
         * the length then, so that the whole effort stays linear.
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
