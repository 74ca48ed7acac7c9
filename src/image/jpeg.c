/*
 * JPEG by libjpeg-turbo. This file uses libjpeg's interface, whose warnings have codes, rather than
 * TurboJPEG's.
 *
 * libjpeg reports an error by calling a function that must not return. Here that function does a
 * longjmp to the setjmp in the function of this file that Rust has called. No jump crosses a Rust
 * frame, because `stop`, the only Rust function that this file calls, returns normally.
 *
 * libjpeg decodes a damaged file to the end and only warns. A viewer may show the result, but a search
 * must not take it for the photo. So a warning is an error here, unless it has no bearing on pixels
 * (see `handle_warning`).
 */
#include <limits.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "failure.h"

/*
 * The most scans of a file. A scan costs a pass over all coefficients but only a few bytes of the file,
 * so thousands of scans are an attack. Encoders write about ten.
 */
#define MAX_SCANS 64

/*
 * The most padding bytes before a restart marker, which some cameras write. More unread bytes mean
 * that damaged data have led the decoder astray.
 */
#define MAX_RESTART_PADDING 16
/*
 * The most bytes that libjpeg reads ahead of the code that it decodes. At a restart marker it counts
 * them as skipped, too (jdhuff.c, process_restart).
 */
#define READ_AHEAD 8
/*
 * Zero bytes can be valid Huffman codes, so libjpeg may decode a part of the padding at the end as data.
 * Of the zeros before those that it skipped, READ_AHEAD may have been read ahead only; one more was
 * decoded, so the file was not written to its end.
 */
#define DECODED_ZEROS (READ_AHEAD + 1)

/*
 * The first fields of libjpeg's struct of this name, which is in jpegint.h, a header that is not
 * installed. Cargo.lock fixes the version of libjpeg-turbo, so the layout is known.
 */
struct jpeg_marker_reader {
    void (*reset_marker_reader)(j_decompress_ptr info);
    int (*read_markers)(j_decompress_ptr info);
    jpeg_marker_parser_method read_restart_marker;
    boolean saw_SOI;
    boolean saw_SOF;
    int next_restart_num;
    unsigned int discarded_bytes;
};

struct photosearch_jpeg {
    struct jpeg_decompress_struct info;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    struct photosearch_failure failure;
    photosearch_stop stop;
    void *context;
    const uint8_t *bytes;
    size_t length;
    /* 1 if the file has ended and libjpeg reads `end_of_image` instead. */
    int ended;
    int several_scans;
};

/* What the header says. `JpegHeader` in jpeg.rs is the same struct. */
struct photosearch_jpeg_header {
    uint32_t width, height;
    /* Components of the decoded rows: 1 grey, 3 RGB, 4 CMYK in which 255 means no ink. */
    uint32_t components;
    /* Bits of a sample, 2 to 16. */
    uint32_t precision;
    /* Bytes of all coefficients if there are several scans, since libjpeg then keeps them; else 0. */
    uint64_t coefficient_bytes;
};

static const JOCTET end_of_image[2] = {0xff, JPEG_EOI};

static void fail(struct photosearch_jpeg *jpeg, int kind, const char *message)
{
    jpeg->failure.kind = kind;
    snprintf(jpeg->failure.message, sizeof jpeg->failure.message, "%s", message);
    longjmp(jpeg->jump, 1);
}

/* Fails with libjpeg's message for its last error or warning. */
static void fail_with_message(struct photosearch_jpeg *jpeg, int kind)
{
    char message[JMSG_LENGTH_MAX];
    (*jpeg->errors.format_message)((j_common_ptr)&jpeg->info, message);
    fail(jpeg, kind, message);
}

static struct photosearch_jpeg *decoder_of(j_common_ptr info)
{
    return info->client_data;
}

static void error_exit(j_common_ptr info)
{
    struct photosearch_jpeg *jpeg = decoder_of(info);
    switch (jpeg->errors.msg_code) {
    case JERR_OUT_OF_MEMORY:
        fail(jpeg, PHOTOSEARCH_OUT_OF_MEMORY, "");
        break;
    case JERR_NO_BACKING_STORE:
        fail(jpeg, PHOTOSEARCH_TOO_MUCH_MEMORY, "");
        break;
    case JERR_EMPTY_IMAGE:
        if (jpeg->info.image_height == 0 && jpeg->info.image_width > 0)
            fail(jpeg, PHOTOSEARCH_UNSUPPORTED, "height in a DNL marker");
        fail(jpeg, PHOTOSEARCH_DAMAGED, "it has no pixels");
        break;
    case JERR_ARITH_NOTIMPL:
        /* libjpeg-turbo reads arithmetic coding, except of lossless files. */
        fail(jpeg, PHOTOSEARCH_UNSUPPORTED, "lossless arithmetic coding");
        break;
    case JERR_CONVERSION_NOTIMPL:
        /* Of the conversions asked for here, libjpeg lacks only those of lossless files. */
        fail(jpeg, PHOTOSEARCH_UNSUPPORTED, "lossless coding of YCbCr or YCCK");
        break;
    case JERR_SOF_UNSUPPORTED:
        fail(jpeg, PHOTOSEARCH_UNSUPPORTED, "hierarchical coding");
        break;
    case JERR_BAD_PRECISION:
    case JERR_CCIR601_NOTIMPL:
    case JERR_COMPONENT_COUNT:
    case JERR_FRACT_SAMPLE_NOTIMPL:
    case JERR_NOTIMPL:
    case JERR_NOT_COMPILED:
        fail_with_message(jpeg, PHOTOSEARCH_UNSUPPORTED);
        break;
    default:
        if (jpeg->ended)
            fail(jpeg, PHOTOSEARCH_DAMAGED, "the file is cut short");
        fail_with_message(jpeg, PHOTOSEARCH_DAMAGED);
    }
}

static void output_message(j_common_ptr info)
{
    /* By default libjpeg writes to standard error. */
    (void)info;
}

/*
 * Whether all bytes that libjpeg skipped before a marker are padding, 0x00 or 0xff. When libjpeg warns,
 * the source's position is directly after the skipped bytes (jdmarker.c, next_marker), or in
 * `end_of_image`.
 */
static int skipped_padding(const struct photosearch_jpeg *jpeg, size_t skipped)
{
    size_t end = jpeg->length;
    if (!jpeg->ended)
        end = (size_t)(jpeg->source.next_input_byte - jpeg->bytes);
    if (end > jpeg->length || skipped > end)
        return 0;
    for (size_t i = end - skipped; i < end; i++)
        if (jpeg->bytes[i] != 0x00 && jpeg->bytes[i] != 0xff)
            return 0;
    return 1;
}

/* Whether the `count` bytes before the offset `end` of the file are all zero. */
static int zeros_before(const struct photosearch_jpeg *jpeg, size_t end, size_t count)
{
    if (end < count || end > jpeg->length)
        return 0;
    for (size_t i = end - count; i < end; i++)
        if (jpeg->bytes[i] != 0)
            return 0;
    return 1;
}

/* Handles the warning that libjpeg skipped bytes before `marker`. */
static void skipped_bytes(struct photosearch_jpeg *jpeg, size_t skipped, int marker)
{
    if (jpeg->info.input_scan_number == 0)
        return; /* between segments of the header */
    if (marker >= JPEG_RST0 && marker <= JPEG_RST0 + 7 &&
        skipped <= MAX_RESTART_PADDING + READ_AHEAD)
        return; /* cameras pad restart intervals */
    if (!skipped_padding(jpeg, skipped))
        fail(jpeg, PHOTOSEARCH_DAMAGED, "its data go on after the last row of pixels");
    /* The file is padded before its end marker. */
    if (!jpeg->ended) {
        size_t end = (size_t)(jpeg->source.next_input_byte - jpeg->bytes);
        if (zeros_before(jpeg, end - skipped, DECODED_ZEROS))
            fail(jpeg, PHOTOSEARCH_DAMAGED, "its last data are replaced by zeros");
    }
}

/* Handles a warning: it is an error, unless it has no bearing on pixels. */
static void handle_warning(struct photosearch_jpeg *jpeg)
{
    switch (jpeg->errors.msg_code) {
    case JWRN_ADOBE_XFORM:    /* libjpeg and every viewer take it for YCbCr or YCCK */
    case JWRN_JFIF_MAJOR:     /* an unknown version of JFIF, whose fields are not used */
    case JWRN_NOT_SEQUENTIAL: /* parameters of a scan that sequential files don't use */
    case JWRN_BOGUS_ICC:      /* profiles are not read */
        return;
    case JWRN_EXTRANEOUS_DATA:
        skipped_bytes(jpeg, (size_t)jpeg->errors.msg_parm.i[0], jpeg->errors.msg_parm.i[1]);
        return;
    case JWRN_HIT_MARKER:
        fail(jpeg, PHOTOSEARCH_DAMAGED,
             jpeg->ended ? "the file is cut short" : "data of the picture are missing");
        break;
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
        fail(jpeg, PHOTOSEARCH_DAMAGED, "its data contain an invalid code");
        break;
    case JWRN_MUST_RESYNC:
        fail(jpeg, PHOTOSEARCH_DAMAGED, "its restart markers are out of order");
        break;
    default:
        fail_with_message(jpeg, PHOTOSEARCH_DAMAGED);
    }
}

static void emit_message(j_common_ptr info, int level)
{
    struct photosearch_jpeg *jpeg = decoder_of(info);
    if (level < 0)
        handle_warning(jpeg);
    else if (jpeg->errors.msg_code == JTRC_RST)
        /*
         * What libjpeg had read ahead when it met the restart marker was padding. It would otherwise add
         * these bytes to the count in its next warning.
         */
        jpeg->info.marker->discarded_bytes = 0;
}

static void init_source(j_decompress_ptr info)
{
    (void)info;
}

static boolean fill_input_buffer(j_decompress_ptr info)
{
    struct photosearch_jpeg *jpeg = decoder_of((j_common_ptr)info);
    jpeg->ended = 1;
    jpeg->source.next_input_byte = end_of_image;
    jpeg->source.bytes_in_buffer = sizeof end_of_image;
    return TRUE;
}

static void skip_input_data(j_decompress_ptr info, long count)
{
    struct jpeg_source_mgr *source = info->src;
    if (count <= 0)
        return;
    if ((size_t)count > source->bytes_in_buffer) {
        fill_input_buffer(info);
        return;
    }
    source->next_input_byte += count;
    source->bytes_in_buffer -= (size_t)count;
}

static void term_source(j_decompress_ptr info)
{
    (void)info;
}

static void progress_monitor(j_common_ptr info)
{
    struct photosearch_jpeg *jpeg = decoder_of(info);
    if (jpeg->info.input_scan_number > MAX_SCANS)
        fail(jpeg, PHOTOSEARCH_DAMAGED, "it has too many scans");
    if (jpeg->stop != NULL && jpeg->stop(jpeg->context))
        fail(jpeg, PHOTOSEARCH_STOPPED, "");
}

static int create(struct photosearch_jpeg *jpeg)
{
    if (setjmp(jpeg->jump) != 0)
        return 0;
    jpeg_create_decompress(&jpeg->info);
    return 1;
}

/* Makes a decoder for these bytes, which must outlive it. NULL if memory is exhausted. */
struct photosearch_jpeg *photosearch_jpeg_new(const uint8_t *bytes, size_t length)
{
    struct photosearch_jpeg *jpeg = calloc(1, sizeof *jpeg);
    if (jpeg == NULL)
        return NULL;
    /*
     * Memory cards leave zeros after the end marker, or in place of it. If data are missing as well,
     * libjpeg would decode the zeros as codes. Cut them off, except one, which may be the last byte of
     * the data.
     */
    while (length > 1 && bytes[length - 1] == 0 && bytes[length - 2] == 0)
        length--;
    jpeg->bytes = bytes;
    jpeg->length = length;
    jpeg->info.err = jpeg_std_error(&jpeg->errors);
    jpeg->errors.error_exit = error_exit;
    jpeg->errors.emit_message = emit_message;
    jpeg->errors.output_message = output_message;
    jpeg->info.client_data = jpeg;
    if (!create(jpeg)) {
        jpeg_destroy_decompress(&jpeg->info);
        free(jpeg);
        return NULL;
    }
    jpeg->source.next_input_byte = bytes;
    jpeg->source.bytes_in_buffer = length;
    jpeg->source.init_source = init_source;
    jpeg->source.fill_input_buffer = fill_input_buffer;
    jpeg->source.skip_input_data = skip_input_data;
    jpeg->source.resync_to_restart = jpeg_resync_to_restart;
    jpeg->source.term_source = term_source;
    jpeg->info.src = &jpeg->source;
    jpeg->progress.progress_monitor = progress_monitor;
    jpeg->info.progress = &jpeg->progress;
    return jpeg;
}

void photosearch_jpeg_free(struct photosearch_jpeg *jpeg)
{
    /* Without a setjmp: this function only frees memory, and never calls error_exit. */
    jpeg_destroy_decompress(&jpeg->info);
    free(jpeg);
}

/*
 * Sets the function that the calls below ask, with `context`, whether to end; NULL for none. They fail
 * with PHOTOSEARCH_STOPPED if it returns non-zero.
 */
void photosearch_jpeg_stop_by(struct photosearch_jpeg *jpeg, photosearch_stop stop, void *context)
{
    jpeg->stop = stop;
    jpeg->context = context;
}

/* The reason why the last call returned 0. Valid as long as the decoder. */
const struct photosearch_failure *photosearch_jpeg_failure(const struct photosearch_jpeg *jpeg)
{
    return &jpeg->failure;
}

/* Reads the header, up to the first scan. Like the functions below, returns 1, or 0 if it failed. */
int photosearch_jpeg_read_header(struct photosearch_jpeg *jpeg,
                                 struct photosearch_jpeg_header *header)
{
    struct jpeg_decompress_struct *info = &jpeg->info;
    if (setjmp(jpeg->jump) != 0)
        return 0;
    if (jpeg_read_header(info, TRUE) != JPEG_HEADER_OK || jpeg->ended)
        fail(jpeg, PHOTOSEARCH_DAMAGED, "the file is cut short");

    switch (info->jpeg_color_space) {
    case JCS_GRAYSCALE:
        info->out_color_space = JCS_GRAYSCALE;
        header->components = 1;
        break;
    case JCS_YCbCr:
    case JCS_RGB:
        info->out_color_space = JCS_RGB;
        header->components = 3;
        break;
    case JCS_CMYK:
    case JCS_YCCK:
        info->out_color_space = JCS_CMYK;
        header->components = 4;
        break;
    default: {
        char message[64];
        snprintf(message, sizeof message, "%d components", info->num_components);
        fail(jpeg, PHOTOSEARCH_UNSUPPORTED, message);
    }
    }
    header->width = info->image_width;
    header->height = info->image_height;
    header->precision = (uint32_t)info->data_precision;

    jpeg->several_scans = jpeg_has_multiple_scans(info);
    header->coefficient_bytes = 0;
    if (jpeg->several_scans) {
        /* The blocks of each component are padded to whole MCUs. */
        for (int i = 0; i < info->num_components; i++) {
            const jpeg_component_info *component = &info->comp_info[i];
            uint64_t across = component->width_in_blocks + (uint64_t)component->h_samp_factor;
            uint64_t down = component->height_in_blocks + (uint64_t)component->v_samp_factor;
            header->coefficient_bytes += across * down * sizeof(JBLOCK);
        }
    }
    return 1;
}

/*
 * Enters the current scan in `accuracy`, which has for each coefficient the number of low bits that no
 * scan has sent yet; 255 for a coefficient without any scan.
 */
static void note_scan(struct photosearch_jpeg *jpeg, uint8_t accuracy[][DCTSIZE2])
{
    struct jpeg_decompress_struct *info = &jpeg->info;
    for (int i = 0; i < info->comps_in_scan; i++) {
        int component = info->cur_comp_info[i]->component_index;
        if (!info->progressive_mode) {
            memset(accuracy[component], 0, DCTSIZE2);
            continue;
        }
        for (int k = info->Ss; k <= info->Se && k < DCTSIZE2; k++)
            accuracy[component][k] = (uint8_t)info->Al;
    }
}

/*
 * Reads all scans and checks that they have sent every coefficient in full. libjpeg does not warn if a
 * file ends between two scans.
 */
static void read_scans(struct photosearch_jpeg *jpeg)
{
    struct jpeg_decompress_struct *info = &jpeg->info;
    uint8_t accuracy[MAX_COMPONENTS][DCTSIZE2];
    int status;
    memset(accuracy, 255, sizeof accuracy);
    note_scan(jpeg, accuracy);
    do {
        progress_monitor((j_common_ptr)info);
        status = jpeg_consume_input(info);
        if (status == JPEG_SUSPENDED)
            fail(jpeg, PHOTOSEARCH_DAMAGED, "the file is cut short");
        if (status == JPEG_REACHED_SOS)
            note_scan(jpeg, accuracy);
    } while (status != JPEG_REACHED_EOI);
    for (int i = 0; i < info->num_components; i++)
        for (int k = 0; k < DCTSIZE2; k++)
            if (accuracy[i][k] != 0)
                fail(jpeg, PHOTOSEARCH_DAMAGED,
                     jpeg->ended ? "the file is cut short" : "scans of the picture are missing");
    jpeg_start_output(info, info->input_scan_number);
}

/*
 * Begins to decode at 1/`divisor` (1, 2, 4 or 8) of the size. libjpeg may take `memory` bytes. Stores
 * the size of the decoded picture in `width` and `height`.
 */
int photosearch_jpeg_start(struct photosearch_jpeg *jpeg, uint32_t divisor, uint64_t memory,
                           uint32_t *width, uint32_t *height)
{
    struct jpeg_decompress_struct *info = &jpeg->info;
    if (setjmp(jpeg->jump) != 0)
        return 0;
    info->mem->max_memory_to_use = memory < (uint64_t)LONG_MAX ? (long)memory : LONG_MAX;
    info->scale_num = 1;
    info->scale_denom = divisor;
    info->buffered_image = jpeg->several_scans ? TRUE : FALSE;
    jpeg_start_decompress(info);
    if (jpeg->several_scans)
        read_scans(jpeg);
    *width = info->output_width;
    *height = info->output_height;
    return 1;
}

/*
 * Decodes the next `count` rows into `rows`, without gaps. A sample has one byte, or two in the
 * machine's byte order if the precision is above 8 bits.
 */
int photosearch_jpeg_read_rows(struct photosearch_jpeg *jpeg, void *rows, uint32_t count)
{
    struct jpeg_decompress_struct *info = &jpeg->info;
    size_t samples = (size_t)info->output_width * (size_t)info->output_components;
    if (setjmp(jpeg->jump) != 0)
        return 0;
    for (uint32_t row = 0; row < count; row++) {
        JDIMENSION read;
        if (info->data_precision <= 8) {
            JSAMPROW to = (JSAMPROW)rows + row * samples;
            read = jpeg_read_scanlines(info, &to, 1);
        } else if (info->data_precision <= 12) {
            J12SAMPROW to = (J12SAMPROW)rows + row * samples;
            read = jpeg12_read_scanlines(info, &to, 1);
        } else {
            J16SAMPROW to = (J16SAMPROW)rows + row * samples;
            read = jpeg16_read_scanlines(info, &to, 1);
        }
        if (read != 1)
            fail(jpeg, PHOTOSEARCH_DAMAGED, "the file is cut short");
    }
    return 1;
}

/* Reads up to the end marker. The marker may be missing. */
int photosearch_jpeg_finish(struct photosearch_jpeg *jpeg)
{
    struct jpeg_decompress_struct *info = &jpeg->info;
    if (setjmp(jpeg->jump) != 0)
        return 0;
    if (jpeg->several_scans)
        jpeg_finish_output(info);
    jpeg_finish_decompress(info);
    /* The arithmetic decoder reads zeros after the end of its data, without a warning. */
    if (jpeg->ended && info->arith_code)
        fail(jpeg, PHOTOSEARCH_DAMAGED, "the file is cut short");
    return 1;
}
